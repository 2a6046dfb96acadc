"""Features come back as they were written or not at all; the condition over them obeys the same laws as the learned ones."""

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from conftest import perturbed
from fake_encoder import FakeEncoder
from toy_runs import CONFIGS, run, weights

from datamodules import MovingDigits
from modules.geometry import Layout, Pyramid
from modules.init_from import load_weights
from modules.storage.text_features import FeatureCache, merge, write_cache
from modules.transformer import FeatureCondition, VideoARTransformer

TEXTS = ["a cat", "a dog runs along the beach", "Ein Bär – 熊", "two dogs"]
LAYOUT = Layout(Pyramid.of(3, 4), 3)


def write(path: Path, texts: list[str] = TEXTS, encoder: FakeEncoder | None = None) -> str:
    encoder = encoder or FakeEncoder()
    write_cache(path, encoder.identity, texts, encoder.encode(texts))
    return str(path)


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return write(tmp_path / "features.safetensors")


def make_condition(cache: str, length: int = 6) -> FeatureCondition:
    return perturbed(FeatureCondition(16, cache, length))


def make_transformer(cache: str, **settings: object) -> VideoARTransformer:
    return perturbed(VideoARTransformer(8, lambda width: FeatureCondition(width, cache, 6), width=48, layers=2, heads=2, **settings)).eval()


@pytest.mark.parametrize("width", [12, 7])
def test_features_come_back_bit_for_bit_in_any_order(tmp_path: Path, width: int) -> None:
    encoder = FakeEncoder(width=width)
    cache = FeatureCache(write(tmp_path / "odd.safetensors", encoder=encoder))
    assert (cache.texts, cache.width, cache.lengths.tolist(), cache.encoder) == (TEXTS, width, [2, 6, 4, 2], encoder.identity)
    for order in (TEXTS, TEXTS[::-1], [TEXTS[2]] * 2):
        for found, written in zip(cache.features_of(order), encoder.encode(order), strict=True):
            assert torch.equal(found, written.bfloat16())
    assert torch.equal(copy.deepcopy(cache).features(1), cache.features(1))


def test_missing_texts_and_files_are_named(cache: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"features\.safetensors lacks 2 of 3 texts, such as 'a fox'"):
        FeatureCache(cache).features_of(["a fox", "a cat", "a hen"])
    with pytest.raises(ValueError, match="there is no file"):
        FeatureCache(tmp_path / "gone.safetensors")
    for texts, lengths, message in (
        ([], [], "at least one text"),
        (["a", "a"], [1, 1], "got 2 texts, 1 of them distinct"),
        (["a", "b"], [1, 0], r"must be \(1 or more, 4\), those of 'b' are \(0, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            write_cache(tmp_path / "wrong.safetensors", FakeEncoder().identity, texts, [torch.zeros(length, 4) for length in lengths])
    assert [path.name for path in tmp_path.iterdir()] == ["features.safetensors"]


def test_no_changed_byte_goes_unnoticed(cache: str, tmp_path: Path) -> None:
    """Every part of the file, and many coordinates in it; spaces that fill up the header have no meaning."""
    whole = Path(cache).read_bytes()
    blank = range(whole.index(b"  "), 8 + int.from_bytes(whole[:8], "little"))
    damaged = tmp_path / "damaged.safetensors"
    for place in [*(place for place in range(0, len(whole), 5) if place not in blank), len(whole) - 1]:
        damaged.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"damaged\.safetensors"):
            found = FeatureCache(damaged)
            assert found.encoder.name
            found.features_of(TEXTS)
    for content in (whole[:-1], b"", b"no features"):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=r"damaged\.safetensors is damaged or not a file of text features"):
            FeatureCache(damaged)


def test_caches_of_one_encoder_merge_and_of_two_do_not(cache: str, tmp_path: Path) -> None:
    more = write(tmp_path / "more.safetensors", ["a fox", "a cat"])
    merge([Path(cache), Path(more)], Path(cache))
    assert FeatureCache(cache).texts == [*TEXTS, "a fox"]
    encoder = FakeEncoder()
    for found, written in zip(FeatureCache(cache).features_of([*TEXTS, "a fox"]), encoder.encode([*TEXTS, "a fox"]), strict=True):
        assert torch.equal(found, written.bfloat16())
    with pytest.raises(ValueError, match=r"features of both fake \(.*\) and other \("):
        merge([Path(cache), Path(write(tmp_path / "other.safetensors", encoder=FakeEncoder("other")))], Path(cache))


def test_a_clips_tokens_do_not_depend_on_its_neighbours(cache: str) -> None:
    condition = make_condition(cache)
    together = condition(condition.of_texts(TEXTS))
    for place, text in enumerate(TEXTS):
        for mine, ours in zip(condition(condition.of_batch(torch.zeros(1), [text])), together, strict=True):
            torch.testing.assert_close(mine[0], ours[place])
    assert (together.tokens[0] - together.tokens[3]).abs().amax() > 0.1


def test_room_for_longer_texts_changes_no_pooled_vector(cache: str) -> None:
    short, long = make_condition(cache, 6), make_condition(cache, 9)
    state = short.state_dict()
    long.load_state_dict({**state, "null": torch.zeros(9, 16)})
    prompts = [condition(condition.of_texts(TEXTS)) for condition in (short, long)]
    torch.testing.assert_close(prompts[0].pooled, prompts[1].pooled)
    torch.testing.assert_close(prompts[0].tokens, prompts[1].tokens[:, :6])
    torch.testing.assert_close(prompts[1].tokens[0, 2:], long.padding.expand(7, -1))


def test_long_texts_are_cut_and_one_warning_counts_them(cache: str) -> None:
    with pytest.warns(UserWarning, match="2 of the 4 texts in .* more than 3 tokens and are cut; the longest, 'a dog.*', has 6") as said:
        condition = make_condition(cache, 3)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = condition.of_batch(torch.zeros(4), TEXTS)
        tokens = condition(ids).tokens
        make_condition(cache, 6)
    assert ids.tolist() == [[0, 0, -1], [1, 1, 1], [2, 2, 2], [3, 3, -1]]
    first = condition.project(condition.norm(condition.cache.features(1)[:3].float()))
    torch.testing.assert_close(tokens[1], first)


def test_a_dropped_text_an_empty_one_and_no_condition_are_the_same(cache: str) -> None:
    condition = make_condition(cache)
    dropped = torch.where(torch.tensor([[True]]), -1, condition.of_texts(["a cat"]))
    for ids in (dropped, condition.of_texts([""]), condition.nothing(1, torch.device("cpu"))):
        prompt = condition(ids)
        assert torch.equal(prompt.tokens[0], condition.null)
        torch.testing.assert_close(prompt.pooled[0], condition.null.mean(0))


def test_training_needs_captions_all_of_which_are_there(cache: str) -> None:
    condition = make_condition(cache)
    with pytest.raises(ValueError, match="no captions"):
        condition.learn_names([], [])
    with pytest.raises(ValueError, match="lacks 1 of 2 texts, such as 'a fox'"):
        condition.learn_names([], ["a cat", "a fox"])
    condition.learn_names([], TEXTS)
    condition.learn_names([], [])
    with pytest.raises(ValueError, match="length must be at least 1"):
        FeatureCondition(16, cache, 0)


def test_weights_know_their_encoder_and_refuse_another(cache: str, tmp_path: Path) -> None:
    condition = make_condition(cache)
    prompts = make_condition(write(tmp_path / "prompts.safetensors", ["a fox", "two dogs"]))
    prompts.load_state_dict(condition.state_dict())
    for mine, ours in zip(prompts(prompts.of_texts(["two dogs"])), condition(condition.of_texts(["two dogs"])), strict=True):
        torch.testing.assert_close(mine, ours)
    other = make_condition(write(tmp_path / "other.safetensors", encoder=FakeEncoder("other")))
    with pytest.raises(ValueError, match=r"weights were trained with features of fake \(.*other\.safetensors has those of other \("):
        other.load_state_dict(condition.state_dict())


def test_a_file_of_weights_with_another_encoder_is_refused(cache: str, tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({"transformer": make_transformer(cache)})
    torch.save({"state_dict": model.state_dict()}, tmp_path / "trained.ckpt")
    load_weights(model, tmp_path / "trained.ckpt")
    other = write(tmp_path / "other.safetensors", encoder=FakeEncoder("other"))
    with pytest.raises(ValueError, match=r"features of fake .* has those of other"):
        load_weights(torch.nn.ModuleDict({"transformer": make_transformer(other)}), tmp_path / "trained.ckpt")


@pytest.mark.parametrize("settings", [{}, {"window": 1}, {"history": "last_scale"}, {"history": "last_scale", "window": 1}], ids=str)
def test_block_by_block_logits_equal_the_full_pass(cache: str, settings: dict) -> None:
    transformer = make_transformer(cache, **settings)
    inputs, ids = torch.randn(3, LAYOUT.tokens, 8), transformer.condition.of_texts(["a cat", TEXTS[1], ""])
    complete = torch.randn(3, LAYOUT.frames, 8, 3, 4)
    with torch.no_grad():
        full = transformer(inputs, LAYOUT, ids, complete=complete)
        decoding = transformer.start_decoding(transformer.condition(ids), LAYOUT)
        logits = []
        for frame in range(LAYOUT.frames):
            for scale in range(LAYOUT.pyramid.scales):
                logits.append(transformer.step(inputs[:, LAYOUT.block(frame, scale)], scale, decoding))
            transformer.commit_frame(complete[:, frame].flatten(2).transpose(1, 2), decoding)
        stepped = torch.cat(logits, dim=1)
        assert (full - transformer(inputs, LAYOUT, ids.roll(1, 0), complete=complete)).abs().amax() > 1e-2
    torch.testing.assert_close(stepped, full, rtol=0, atol=1e-4)


def test_every_parameter_gets_a_gradient(cache: str) -> None:
    transformer = make_transformer(cache)
    ids = transformer.condition.of_texts(["a cat", ""])
    transformer(torch.randn(2, LAYOUT.tokens, 8), LAYOUT, ids).square().mean().backward()
    assert [name for name, p in transformer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_a_run_trains_with_features_and_samples_prompts_from_another_cache(tmp_path: Path) -> None:
    captions = write(tmp_path / "captions.safetensors", MovingDigits().captions)
    prompts = write(tmp_path / "prompts.safetensors", ["a blue 3 moving left and up"])
    condition = ("--model.transformer.condition", "modules.transformer.FeatureCondition", "--model.transformer.condition.length", 8)
    features = (*condition, "--model.transformer.condition.features")
    model = run("fit", "videoar", tmp_path / "1", *features, captions)
    known = json.loads(bytes(weights(model)["transformer.condition._extra_state"].tolist()))
    assert known["sha256"] == FakeEncoder().identity.sha256

    sample = ("-c", CONFIGS / "sample.yaml", "--data.clip.height", 16, "--data.clip.width", 16, "--data.clip.frames", 5)
    asked = ("--data.prompts", '["a blue 3 moving left and up", ""]', "--ckpt_path", model)
    run("predict", "videoar", tmp_path / "2", *sample, *features, prompts, *asked)
    rows = [json.loads(line) for line in (tmp_path / "2/samples/manifest.jsonl").read_text().splitlines()]
    assert [row["condition"] for row in rows] == ["a blue 3 moving left and up", ""]
    with pytest.raises(
        ValueError, match=r"prompts\[0\]: .*captions\.safetensors lacks 1 of 1 texts, such as 'a blue 3 moving left and up'"
    ):
        run("predict", "videoar", tmp_path / "3", *sample, *features, captions, *asked)
    other = write(tmp_path / "other.safetensors", MovingDigits().captions, FakeEncoder("other"))
    with pytest.raises(ValueError, match="features of fake .* has those of other"):
        run("test", "videoar", tmp_path / "4", *features, other, "--ckpt_path", model)
