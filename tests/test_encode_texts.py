"""Every text is encoded once, whatever interrupts it; the cache is whole or the one before; a real encoder gives what it gives alone."""

import json
import logging
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from fake_encoder import FakeEncoder
from safetensors.torch import load_file, save_file

import scripts.encode_texts as command
from modules.storage.text_features import FeatureCache
from modules.storage.text_features.encoder import HuggingFaceEncoder
from scripts.cli import run
from scripts.encode_texts import encode_texts, fill, texts_of

TEXTS = ["a cat", "a dog runs", "", "two dogs", "a cat", "x"]
DIFFERENT = {"a cat", "a dog runs", "two dogs", "x"}


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "new" / "features.safetensors"


def test_every_text_is_encoded_once_and_later_calls_add(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    encoder = FakeEncoder()
    fill(out, TEXTS, encoder, batch_size=2)
    assert encoder.encoded[0] == "a dog runs" and sorted(encoder.encoded) == sorted(DIFFERENT)
    assert "4 texts of 2.0 tokens on average, 12 features per token at 2 bytes: 0.0 MB" in caplog.text
    assert "encoded 4 of 4 texts" in caplog.text and [path.name for path in out.parent.iterdir()] == [out.name]
    fill(out, [*TEXTS, "a fox"], encoder)
    assert encoder.encoded[4:] == ["a fox"]
    before = out.read_bytes()
    fill(out, TEXTS, encoder)
    assert out.read_bytes() == before and len(encoder.encoded) == 5
    cache = FeatureCache(out)
    assert set(cache.texts) == {*DIFFERENT, "a fox"}
    for text, features in zip(cache.texts, cache.features_of(cache.texts), strict=True):
        assert torch.equal(features, FakeEncoder().encode([text])[0].bfloat16())


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_an_interrupted_call_goes_on(out: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(command, "TOKENS_PER_PART", 1)
    fill(out, ["there before"], FakeEncoder())
    before = out.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        fill(out, TEXTS, FakeEncoder(most=most), batch_size=1)
    assert out.read_bytes() == before
    encoder = FakeEncoder()
    fill(out, TEXTS, encoder, batch_size=1)
    assert len(encoder.encoded) == 4 - most and set(FeatureCache(out).texts) == {*DIFFERENT, "there before"}
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_call_interrupted_after_merging_leaves_nothing_behind(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(command.shutil, "rmtree", interrupt)
        fill(out, TEXTS, FakeEncoder())
    fill(out, TEXTS, FakeEncoder(most=0))
    assert set(FeatureCache(out).texts) == DIFFERENT and len(FeatureCache(out)) == 4 and len(list(out.parent.iterdir())) == 1


def test_what_cannot_be_done_is_refused_before_encoding(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(out, TEXTS, FakeEncoder())
    with pytest.raises(ValueError, match=r"features of fake \(.*\), not of other \(.*use another --out"):
        fill(out, TEXTS, FakeEncoder("other", most=0))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        fill(out, TEXTS, FakeEncoder(most=0), batch_size=0)
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(10))
    with pytest.raises(ValueError, match=r"needs 0\.0 GB of disk space while it is written, 0\.0 GB are free"):
        fill(out, ["a fox"], FakeEncoder(most=0))


def test_long_texts_are_counted_and_cut(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(out, TEXTS, FakeEncoder(longest=2))
    assert "1 texts have more than 2 tokens and are cut; the longest has 3" in caplog.text
    assert FeatureCache(out).features_of(["a dog runs"])[0].shape == (2, 12)


def test_texts_come_from_manifests_and_prompts(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"path": "gone.mp4", "caption": "a cat"}\n{"path": "b.mp4", "label": 3}\n')
    (tmp_path / "p.txt").write_text("a dog\n")
    (tmp_path / "p.jsonl").write_text('{"condition": "a fox", "prefix": "gone.png", "prefix_frames": 40}\n')
    manifests, prompts = [str(tmp_path / "m.jsonl")], [str(tmp_path / "p.txt"), str(tmp_path / "p.jsonl")]
    assert texts_of(manifests, prompts) == ["a cat", "a dog", "a fox"]
    with pytest.raises(ValueError, match="nothing: give --manifest or --prompts"):
        texts_of([], [])
    (tmp_path / "m.jsonl").write_text('{"path": "b.mp4", "label": 3}\n')
    with pytest.raises(ValueError, match=r"there are no texts in .*m\.jsonl"):
        texts_of(manifests, [])
    (tmp_path / "p.jsonl").write_text('{"seed": 1}\n')
    with pytest.raises(ValueError, match=r'p\.jsonl:1: "condition" is missing'):
        texts_of([], prompts)


def test_the_command_says_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "p.txt").write_text("a dog\n")
    with pytest.raises(SystemExit, match=r"error: text encoders need more packages \(.*transformers.*\): .*pip install -e '\.\[text\]'"):
        run(encode_texts, ["--prompts", str(tmp_path / "p.txt"), "--encoder", "nowhere", "--out", str(tmp_path / "out")])


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 of random weights with a decoder that nobody needs, and a tokenizer of words."""
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("tiny_t5")
    words = ["<pad>", "</s>", "<unk>", "a", "cat", "dog", "dogs", "runs", "two"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    sizes = {"vocab_size": len(words), "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes)).save_pretrained(folder)
    return folder


def test_a_real_encoder_gives_the_same_alone_and_in_a_batch(tiny_t5: Path) -> None:
    encoder = HuggingFaceEncoder(str(tiny_t5), longest=3)
    texts = ["a dog runs", "a cat", "x"]
    assert encoder.count(texts) == [4, 3, 2] and encoder.width == 16
    together = encoder.encode(texts)
    assert [len(features) for features in together] == [3, 3, 2]
    for text, features in zip(texts, together, strict=True):
        torch.testing.assert_close(encoder.encode([text])[0], features)
    assert features.std() > 0.1 and not torch.allclose(together[0][0], together[1][1])


def test_the_command_fills_a_cache_with_a_real_encoder(tiny_t5: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a dog runs\na cat\n")
    run(encode_texts, ["--prompts", str(tmp_path / "p.txt"), "--encoder", str(tiny_t5), "--out", str(tmp_path / "out.safetensors")])
    cache, encoder = FeatureCache(tmp_path / "out.safetensors"), HuggingFaceEncoder(str(tiny_t5))
    assert cache.encoder == encoder.identity and cache.lengths.tolist() == [4, 3]
    torch.testing.assert_close(cache.features_of(["a cat"])[0], encoder.encode(["a cat"])[0].bfloat16())


def test_an_encoder_is_known_by_its_weights_and_words(tiny_t5: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_t5.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    known = HuggingFaceEncoder(str(tiny_t5)).identity.sha256
    assert HuggingFaceEncoder(str(copy)).identity.sha256 == known
    vocabulary = json.loads((copy / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"] |= {"cat": 5, "dog": 4}
    (copy / "tokenizer.json").write_text(json.dumps(vocabulary))
    assert HuggingFaceEncoder(str(copy)).identity.sha256 != known
    (weights,) = copy.glob("*.safetensors")
    content = weights.read_bytes()
    (copy / "tokenizer.json").write_bytes((tiny_t5 / "tokenizer.json").read_bytes())
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert HuggingFaceEncoder(str(copy)).identity.sha256 != known


def test_encoders_that_are_not_whole_are_refused(tiny_t5: Path, tmp_path: Path) -> None:
    (tmp_path / "lacking").mkdir()
    for path in tiny_t5.iterdir():
        (tmp_path / "lacking" / path.name).write_bytes(path.read_bytes())
    (weights,) = (tmp_path / "lacking").glob("*.safetensors")
    save_file({name: value for name, value in load_file(weights).items() if "encoder.block.1" not in name}, weights, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"cannot read a text encoder from .*lacking: its files lack \d+ tensors, such as encoder\.block\.1"
    ):
        HuggingFaceEncoder(str(tmp_path / "lacking"))
    with pytest.raises(ValueError, match="cannot read a text encoder from .*empty"):
        HuggingFaceEncoder(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="longest must be at least 1 token, got 0"):
        HuggingFaceEncoder(str(tiny_t5), longest=0)
