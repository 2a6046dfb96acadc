"""From clips to latents and from latents to a model, as a user types it: nothing differs from training on the clips themselves."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from toy_runs import CONFIGS, ROOT, arguments, compose, run, weights

from callbacks import write_latents
from datamodules import CachedLatents, MovingDigits, shards
from modules.geometry import Clip
from modules.latents import LatentCache, plan
from modules.tokenizer import Detokenizer, VideoTokenizer, encoder

ENCODE = ("-c", CONFIGS / "encode_latents.yaml")
CACHED = ("-c", CONFIGS / "data/cached.yaml")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_CLIPS", 6)


class Made(NamedTuple):
    """Checkpoints of a tokenizer and of a model over it, and the tokenizer's latents."""

    tokenizer: Path
    model: Path
    latents: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "SHARD_CLIPS", 6)
        tokenizer = run("fit", "tokenizer", folder / "tokenizer")
        model = run("fit", "videoar", folder / "model", "--init_from", tokenizer)
        return Made(tokenizer, model, encode(folder / "encoded", tokenizer))


def encode(root: Path, tokenizer: Path, *more: object) -> Path:
    """Run the command; returns the cache."""
    run("predict", "tokenizer", root, *ENCODE, "--ckpt_path", tokenizer, *more)
    return root / "latents"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def losses(root: Path) -> list[float]:
    """All losses of a run in the order of its steps; a resumed run has a log for each of its parts."""
    logs = sorted(root.glob("log/version_*/metrics.csv"))
    rows = [row for log in logs for row in csv.DictReader(log.read_text().splitlines())]
    return [float(row[name]) for row in rows for name in ("train/loss", "val/loss") if row.get(name)]


ROLLOUT = ("--model.rollout", "Rollout", "--model.rollout.fraction", 0.5)
TRAIN = ("--trainer.max_steps", 6, "--trainer.val_check_interval", 3)


@pytest.mark.parametrize("options", [(), ROLLOUT], ids=["corrupted", "rollout"])
def test_a_model_learns_from_latents_what_it_learns_from_clips(made: Made, tmp_path: Path, options: tuple) -> None:
    """Flipped bits, error inheritance and corrected targets included, over two epochs and two validations."""
    start = ("--init_from", made.model, *TRAIN, *options)
    run("fit", "videoar", tmp_path / "clips", *start)
    run("fit", "videoar", tmp_path / "latents", *CACHED, "--data.folder", made.latents, *start)
    expected, found = losses(tmp_path / "clips"), losses(tmp_path / "latents")
    assert len(expected) == 8 and found == pytest.approx(expected, abs=1e-4)
    assert len(set(expected)) == 8


def test_latents_stand_for_their_clips(made: Made) -> None:
    """Whatever the split: the same latents, labels, captions and numbers, and names and captions for the condition."""
    tokenizer = compose("tokenizer", made.latents.parent).model.tokenizer
    tokenizer.load_state_dict({name.removeprefix("tokenizer."): value for name, value in weights(made.tokenizer).items()})
    clips = MovingDigits(Clip(5, 16, 16), clips=16, held_out=4)
    cached = CachedLatents(Clip(5, 16, 16), folder=str(made.latents))
    cached.setup("fit")
    assert (cached.class_names, cached.captions) == (clips.class_names, clips.captions)
    for split in ("train", "val", "test"):
        expected, found = clips.dataset(split), cached.dataset(split)
        assert len(found) == len(expected) == (16 if split == "train" else 4)
        for number in (3, 0, len(expected) - 1):
            wanted, item = expected[number], found[number]
            latent = tokenizer.eval().encode_for_tokens(wanted.pop("video")[None].float() / 127.5 - 1)[0]
            torch.testing.assert_close(item.pop("latent"), latent, atol=1e-5, rtol=1e-5)
            assert item == wanted


def test_shorter_clips_are_cut_from_longer_ones(made: Made, tmp_path: Path) -> None:
    latents = encode(tmp_path, made.tokenizer, "--data.clip.frames", 9)
    tokenizer = compose("tokenizer", tmp_path).model.tokenizer
    tokenizer.load_state_dict({name.removeprefix("tokenizer."): value for name, value in weights(made.tokenizer).items()})
    video = MovingDigits(Clip(9, 16, 16), clips=16, held_out=4).dataset("train")[2]["video"][None].float() / 127.5 - 1
    for frames in (1, 5, 9):
        cached = CachedLatents(Clip(frames, 16, 16), folder=str(latents))
        expected = tokenizer.eval().encode_for_tokens(video[:, :, :frames])[0]
        torch.testing.assert_close(cached.dataset("train")[2]["latent"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("clip", [Clip(9, 16, 16), Clip(4, 16, 16), Clip(5, 32, 16), Clip(5, 16, 16, 4)])
def test_clips_that_the_cache_does_not_have_are_refused(made: Made, clip: Clip) -> None:
    message = (
        rf"latents has latents of clips with frames 5, height 16, width 16, fps 8; asked for frames {clip.frames}, height {clip.height}, "
        rf"width 16, fps {clip.fps:g} \(1 \+ 4 \* n frames, at most those\)"
    )
    with pytest.raises(ValueError, match=message):
        CachedLatents(clip, folder=str(made.latents)).setup("fit")


class Killed(BaseException):
    pass


def test_killed_anywhere_it_goes_on_and_gives_the_same_bytes(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a shard, of writing one, and after one; nothing is encoded twice."""
    write, encoded = write_latents.write_shard, []
    plain_encode = VideoTokenizer.encode

    def count(self: VideoTokenizer, video: torch.Tensor) -> torch.Tensor:
        encoded.append(len(video))
        if len(encoded) in (1, 6):
            raise Killed
        return plain_encode(self, video)

    def half(path: Path, *rest: object) -> None:
        write(path, *rest)
        path.write_bytes(path.read_bytes()[:100])
        raise Killed

    monkeypatch.setattr(VideoTokenizer, "encode", count)
    for number in range(4):
        with monkeypatch.context() as patch, pytest.raises((Killed, KeyboardInterrupt)):
            if number == 2:
                patch.setattr(write_latents, "write_shard", half)
            encode(tmp_path, made.tokenizer)
            if number == 3:
                raise Killed
    assert files(tmp_path / "latents") == files(made.latents)
    assert len(encoded) == 7 + 3  # three batches were lost
    encode(tmp_path, made.tokenizer)
    assert len(encoded) == 10 and files(tmp_path / "latents") == files(made.latents)


def test_every_process_makes_shards_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = MovingDigits(Clip(1, 8, 8), clips=16, held_out=4, batch_size=4).predict_dataloader()
    names = [
        plan.Shard(f"{split}/{first}", split, first, 3) for split, count in (("train", 15), ("val", 3)) for first in range(0, count, 3)
    ]
    seen = []
    for rank in range(4):
        monkeypatch.setattr(shards, "place", lambda rank=rank: (rank, 4))
        loader.begin(names, {"train/3"})
        batches = list(loader)
        assert [batch["last"] for batch in batches] == [True] * len(batches)
        seen += [batch["shard"].name for batch in batches]
        assert all(batch["index"].tolist() == [*range(batch["shard"].first, batch["shard"].first + 3)] for batch in batches)
    assert sorted(seen) == sorted(shard.name for shard in names if shard.name != "train/3")


@pytest.mark.slow
def test_two_processes_make_what_one_makes(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_CLIPS", 1024)
    alone = encode(tmp_path / "one", made.tokenizer)
    options = (*ENCODE, "--ckpt_path", made.tokenizer, "--trainer.devices", 2, "--trainer.strategy", "ddp")
    result = start("predict", "tokenizer", tmp_path / "two", *options)
    _, said = result.communicate(timeout=300)
    assert result.returncode == 0, said[-2000:]
    assert len(files(alone)) == 4 and files(tmp_path / "two" / "latents") == files(alone)


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "SHARD_CLIPS", 1024)
    more = ("--data.clips", 64, "--data.held_out", 64)
    alone = encode(tmp_path / "one", made.tokenizer, *more)
    process = start("predict", "tokenizer", tmp_path / "two", *ENCODE, "--ckpt_path", made.tokenizer, *more)
    first = tmp_path / "two/latents/train/000000.safetensors"
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert first.exists()
    encode(tmp_path / "two", made.tokenizer, *more)
    assert files(tmp_path / "two" / "latents") == files(alone)


def start(*command: object) -> subprocess.Popen:
    args = [sys.executable, "train.py", *arguments(*command)]  # type: ignore[arg-type]
    return subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def test_another_tokenizer_is_refused_with_both_named(made: Made, tmp_path: Path) -> None:
    other = run("fit", "tokenizer", tmp_path / "other", "--seed_everything", 1)
    shutil.copytree(made.latents, tmp_path / "latents")
    hashes = r"decoder \w{12}, encoder \w{12}"
    with pytest.raises(
        ValueError, match=rf"latents of tokenizer {hashes} \(.*tokenizer.*last\.ckpt\), not of {hashes} \(.*other.*last\.ckpt\)"
    ):
        encode(tmp_path, other)
    with pytest.raises(ValueError, match=r"was begun with clip\.frames 5, not 9: give another folder, or remove that one"):
        encode(tmp_path, made.tokenizer, "--data.clip.frames", 9)
    with pytest.raises(ValueError, match=r"was begun with preprocessing\.seed 0, not 3: give another folder"):
        encode(tmp_path, made.tokenizer, "--data.seed", 3)
    assert files(tmp_path / "latents") == files(made.latents)
    train = ("fit", "videoar", tmp_path / "ar", *CACHED, "--data.folder", made.latents)
    named = rf"has latents of tokenizer {hashes} \(.*tokenizer.*last\.ckpt\), but the model has tokenizer decoder \w{{12}} \(.*other"
    with pytest.raises(ValueError, match=named):
        run(*train, "--init_from", other)
    with pytest.raises(ValueError, match=r"but the model has tokenizer none: give --init_from"):
        run(*train)
    model = run("fit", "videoar", tmp_path / "model", "--init_from", other)
    for command in ("validate", "test"):
        with pytest.raises(ValueError, match=r"but the model has tokenizer decoder \w{12}, encoder \w{12} \(.*model.*last\.ckpt\)"):
            run(
                command, "videoar", tmp_path / "ar", "-c", CONFIGS / "data/cached.yaml", "--data.folder", made.latents, "--ckpt_path", model
            )


def test_the_encoder_is_neither_built_nor_loaded(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = compose("videoar", tmp_path, "--init_from", made.tokenizer).model

    def refuse(*_: object) -> None:
        raise AssertionError("an encoder is built")

    monkeypatch.setattr(encoder.Encoder, "__init__", refuse)
    half = compose("videoar", tmp_path, *CACHED, "--data.folder", made.latents, "--init_from", made.tokenizer).model
    names = {name for name, _ in half.named_parameters()}
    assert names == {name for name, _ in whole.named_parameters() if not name.startswith("tokenizer.encoder.")}
    held = sum(value.numel() for value in whole.tokenizer.encoder.parameters())
    assert held > 10_000 and sum(value.numel() for value in whole.parameters()) - sum(value.numel() for value in half.parameters()) == held
    run("fit", "videoar", tmp_path / "ar", *CACHED, "--data.folder", made.latents, "--init_from", made.tokenizer)
    assert not any(name.startswith("tokenizer.encoder.") for name in weights(tmp_path / "ar/checkpoints/last.ckpt"))


SAMPLE = ("-c", CONFIGS / "sample.yaml", "--data.clip.height", 16, "--data.clip.width", 16, "--data.clip.frames", 9)


def test_what_a_cached_run_leaves_can_be_looked_at_and_completed(made: Made, tmp_path: Path) -> None:
    cached = (*CACHED, "--data.folder", made.latents)
    half = run("fit", "videoar", tmp_path / "ar", *cached, "--init_from", made.model, *TRAIN)
    assert {path.name.split("_")[-1] for path in (tmp_path / "ar/pictures").iterdir()} == {"reconstructed.png", "generated.png"}
    run("test", "videoar", tmp_path / "test", *cached, "--ckpt_path", half)
    report = json.loads((tmp_path / "test/report.json").read_text())
    assert report["protocol"]["clips"] == 4 and 0 < report["metrics"]["test/loss"] < 1 and "test/psnr" not in report["metrics"]

    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"condition": "3 left", "name": "short"}\n{"condition": "3 left", "name": "long", "frames": 13}\n')
    sample = (*SAMPLE, "--data.prompts", prompts)
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: a video of 13 frames, longer than .*window, needs the tokenizer's encoder"):
        run("predict", "videoar", tmp_path / "half", *CACHED, *sample, "--ckpt_path", half)
    run("predict", "videoar", tmp_path / "half", *CACHED, *SAMPLE, "--data.prompts", "['3 left']", "--ckpt_path", half)
    run("predict", "videoar", tmp_path / "whole", *sample, "--init_from", f"[{half},{made.tokenizer}]")
    (alone,) = (tmp_path / "half/samples").glob("*.mp4")
    assert (tmp_path / "whole/samples/short.mp4").read_bytes() == alone.read_bytes() and (tmp_path / "whole/samples/long.mp4").exists()

    other = run("fit", "tokenizer", tmp_path / "other", "--seed_everything", 1)
    with pytest.raises(ValueError, match=r"other.*last\.ckpt is of another model than .*ar.*last\.ckpt: both have tokenizer\.decoder"):
        compose("videoar", tmp_path, "--init_from", f"[{half},{other}]")


def test_clips_longer_than_the_window_are_refused_before_training(made: Made, tmp_path: Path) -> None:
    latents = encode(tmp_path, made.tokenizer, "--data.clip.frames", 13)
    with pytest.raises(ValueError, match=r"a video of 13 frames, longer than model\.extension\.window, needs the tokenizer's encoder"):
        run("fit", "videoar", tmp_path, *CACHED, "--data.folder", latents, "--data.clip.frames", 13, "--init_from", made.tokenizer)


def test_a_damaged_shard_ends_a_run_by_its_name(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.latents, tmp_path / "latents")
    shard = tmp_path / "latents/train/000001.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1  # latents are most of a shard
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"train/000001\.safetensors is damaged: latent \d is not the one that was written; remove it"):
        run("fit", "videoar", tmp_path / "ar", *CACHED, "--data.folder", tmp_path / "latents", "--init_from", made.tokenizer, *TRAIN)
    shard.unlink()
    with pytest.raises(ValueError, match=r"latents is not complete: 1 of 5 shards are missing, such as train/000001"):
        run("fit", "videoar", tmp_path / "ar", *CACHED, "--data.folder", tmp_path / "latents", "--init_from", made.tokenizer)
    encode(tmp_path, made.tokenizer)
    assert files(tmp_path / "latents") == files(made.latents)


def test_the_size_is_said_before_anything_is_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode(tmp_path, made.tokenizer)
    assert "24 of 24 clips to encode, 8 x 2 x 4 x 4 numbers each as float32: 0.0 MB in 5 of 5 shards" in caplog.text
    monkeypatch.setattr(write_latents.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(10))
    with pytest.raises(ValueError, match=r"full/latents needs 0\.0 GB of disc, 0\.0 GB are free"):
        encode(tmp_path / "full", made.tokenizer)
    assert not files(tmp_path / "full" / "latents")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ("predict", "tokenizer"),
            r"add -c configs/reconstruct\.yaml; or it encodes clips for training: add -c configs/encode_latents\.yaml",
        ),
        (("predict", "videoar", *ENCODE), r"clips are made from prompts, which MovingDigits does not have"),
        (
            ("fit", "tokenizer", *CACHED, "--model.tokenizer.class_path", "VideoTokenizer"),
            "a tokenizer needs video, and CachedLatents has latents",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(made: Made, tmp_path: Path, command: tuple, message: str) -> None:
    name, task, *more = command
    start = ("--ckpt_path", made.model if task == "videoar" else made.tokenizer) if name == "predict" else ("--data.folder", made.latents)
    with pytest.raises(ValueError, match=message):
        run(name, task, tmp_path, *more, *start)


def test_half_a_tokenizer_decodes_like_the_whole(tokenizer: VideoTokenizer) -> None:
    half = Detokenizer(bits=8, channels=24, multipliers=(1, 1, 1), blocks=1, temporal_factor=4)
    half.load_state_dict({name: value for name, value in tokenizer.state_dict().items() if name.startswith("decoder.")})
    latent = torch.randn(2, 8, 3, 4, 4)
    assert torch.equal(half.decode(latent), tokenizer.decode(latent))
    assert half.identity() == {"decoder": tokenizer.identity()["decoder"]} != {}
    for encode in (half.encode, half.encode_chunk, half.encode_for_tokens):
        with pytest.raises(ValueError, match="video cannot be encoded without the tokenizer's encoder"):
            encode(torch.zeros(1, 3, 1, 16, 16))


@pytest.mark.parametrize("change", [lambda t: t.state_dict()["encoder.conv_in.conv.weight"].view(-1)[0].add_(1e-3)])
def test_a_tokenizer_is_known_by_each_of_its_numbers(tokenizer: VideoTokenizer, change: Callable) -> None:
    before = tokenizer.identity()
    change(tokenizer)
    after = tokenizer.identity()
    assert before["encoder"] != after["encoder"] and before["decoder"] == after["decoder"] and len(before["encoder"]) == 64
    regrouped = VideoTokenizer(bits=8, channels=24, multipliers=(1, 1, 1), blocks=1, temporal_factor=4, groups=12)
    regrouped.load_state_dict(tokenizer.state_dict())
    assert set(regrouped.identity().values()).isdisjoint(after.values())


def test_a_cache_is_of_the_data_it_was_made_of(made: Made) -> None:
    settled = LatentCache(made.latents).plan
    assert settled.preprocessing == {"source": "MovingDigits", "seed": 0, "speed": 1.0, "wander": 3}
    assert (settled.clip, settled.latent, settled.temporal_factor, settled.splits) == (
        Clip(5, 16, 16),
        (8, 2, 4, 4),
        4,
        {"train": 16, "val": 4, "test": 4},
    )
