"""From clips to latents, as a user types it: whole, whoever does it and however often it is stopped."""

import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from latent_runs import ENCODE, Made, encode, files, make
from toy_runs import ROOT, arguments, compose, weights

from callbacks.writers import write_latents
from datamodules import CachedLatents, ClipDataModule, FreshViews, Mixture, MovingDigits, VideoBuckets, VideoFolder
from datamodules.base import StageOverride
from datamodules.loaders import shards
from modules.geometry import Clip
from modules.storage.latents import LatentCache, header
from modules.tokenizer import VideoTokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"))


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


def test_a_cache_is_of_the_data_it_was_made_of(made: Made) -> None:
    settled = LatentCache(made.latents).header
    assert settled.preprocessing == {"source": "MovingDigits", "seed": 0, "speed": 1.0, "wander": 3}
    assert (settled.clip, settled.latent, settled.temporal_factor) == (Clip(5, 16, 16), (8, 2, 4, 4), 4)
    assert settled.splits == {"train": 16, "val": 4, "test": 4} and not settled.same


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
    for writer in (write, write, half):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(write_latents, "write_shard", writer)
            encode(tmp_path, made.tokenizer)
    encode(tmp_path, made.tokenizer, shard_clips=5)  # a cache keeps to what it was begun with
    assert files(tmp_path / "latents") == files(made.latents)
    assert len(encoded) == 7 + 3  # three batches were lost
    encode(tmp_path, made.tokenizer)
    assert len(encoded) == 10 and files(tmp_path / "latents") == files(made.latents)


def test_every_process_makes_shards_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = MovingDigits(Clip(1, 8, 8), clips=16, held_out=4, batch_size=4).predict_dataloader()
    names = [
        header.Shard(f"{split}/{first}", split, first, 3) for split, count in (("train", 15), ("val", 3)) for first in range(0, count, 3)
    ]
    seen = []
    for rank in range(4):
        monkeypatch.setattr(shards, "rank_and_world_size", lambda rank=rank: (rank, 4))
        loader.begin(names, {"train/3"})
        batches = list(loader)
        assert [batch["last"] for batch in batches] == [True] * len(batches)
        seen += [batch["shard"].name for batch in batches]
        assert all(batch["index"].tolist() == [*range(batch["shard"].first, batch["shard"].first + 3)] for batch in batches)
    assert sorted(seen) == sorted(shard.name for shard in names if shard.name != "train/3")


CLIP = Clip(5, 16, 16)
PARTS = {"a": MovingDigits(CLIP), "b": MovingDigits(CLIP)}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            MovingDigits(CLIP, milestones={3: StageOverride(frames=1)}),
            r"but some have frames 1, height 16, width 16, fps 8: encode each size into a",
        ),
        (Mixture(CLIP, parts=PARTS, ratio={"a": 1, "b": 2}, main="a"), r"encode the parts a, b one by one, each into a separate folder"),
        (VideoBuckets(CLIP, manifest="none.jsonl", sizes=[(16, 16), (16, 32)]), r"but some have frames 5, height 16, width 32"),
        (VideoFolder(CLIP, manifest="none.jsonl", views=FreshViews()), r"change from visit to visit .* remove datamodules\.FreshViews"),
    ],
    ids=["growth", "mixture", "buckets", "fresh"],
)
def test_clips_that_latents_cannot_stand_for_are_refused(data: ClipDataModule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.predict_dataloader()


@pytest.mark.slow
def test_two_processes_make_what_one_makes(made: Made, tmp_path: Path) -> None:
    alone = encode(tmp_path / "one", made.tokenizer, shard_clips=1024)
    options = (*ENCODE, "--ckpt_path", made.tokenizer, "--trainer.devices", 2, "--trainer.strategy", "ddp")
    result = start("predict", "tokenizer", tmp_path / "two", *options)
    _, said = result.communicate(timeout=300)
    assert result.returncode == 0, said[-2000:]
    assert len(files(alone)) == 4 and files(tmp_path / "two" / "latents") == files(alone)


@pytest.mark.slow
def test_a_killed_process_is_gone_on_with(made: Made, tmp_path: Path) -> None:
    more = ("--data.clips", 64, "--data.held_out", 64)
    alone = encode(tmp_path / "one", made.tokenizer, *more, shard_clips=1024)
    process = start("predict", "tokenizer", tmp_path / "two", *ENCODE, "--ckpt_path", made.tokenizer, *more)
    first = tmp_path / "two/latents/train/000000.safetensors"
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert first.exists()
    encode(tmp_path / "two", made.tokenizer, *more, shard_clips=1024)
    assert files(tmp_path / "two" / "latents") == files(alone)


def start(*command: object) -> subprocess.Popen:
    args = [sys.executable, "train.py", *arguments(*command)]  # type: ignore[arg-type]
    return subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_size_is_said_before_anything_is_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode(tmp_path, made.tokenizer)
    assert "24 of 24 clips to encode, 8 x 2 x 4 x 4 values each as float32: 0.0 MB in 5 of 5 shards" in caplog.text
    monkeypatch.setattr(write_latents.shutil, "disk_usage", lambda _: namedtuple("Usage", "free")(10))
    with pytest.raises(ValueError, match=r"full/latents needs 0\.0 GB of disk space, 0\.0 GB are free"):
        encode(tmp_path / "full", made.tokenizer)
    assert not files(tmp_path / "full" / "latents")
