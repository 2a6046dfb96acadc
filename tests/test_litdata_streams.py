"""Latents as LitData streams them: the same clips, each once, exactly resumed. All but two tests need LitData."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from latent_runs import encode, losses
from test_latent_cache import SETTLED, write
from toy_runs import CONFIGS, ROOT, arguments, run, weights

from datamodules import CachedLatents, StreamedLatents
from datamodules.latents import litdata_format
from modules.geometry import Clip
from modules.storage.checksums import raw
from modules.storage.latents import CacheHeader, LatentCache
from scripts import stream_latents
from scripts.cli import run as run_command
from scripts.stream_latents import stream_latents as command
from scripts.stream_latents import write_stream

try:
    litdata_format.litdata()
    INSTALLED = True
except ValueError:
    INSTALLED = False

needs_litdata = pytest.mark.skipif(not INSTALLED, reason="needs pip install -e '.[stream]'")
CLIP = Clip(5, 16, 16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache of 50 + 7 clips and the stream of it, in many chunks."""
    folder = tmp_path_factory.mktemp("made")
    make(folder, replace(SETTLED, splits={"train": 50, "val": 7}))
    return folder


def make(folder: Path, plan: CacheHeader) -> None:
    write(folder / "cache", plan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_latents, "CHUNK_BYTES", 10_000)
        write_stream(LatentCache(folder / "cache"), str(folder / "stream"))


def source(folder: str | Path, **options: Any) -> StreamedLatents:
    data = StreamedLatents(CLIP, folder=str(folder), **{"batch_size": 4, "seed": 3, **options})
    data.setup("fit")
    return data


def clips(loader: Any) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


def test_what_is_not_installed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litdata", None)
    with pytest.raises(ValueError, match=r"streams of latents need another package \(.*litdata.*\): .*pip install -e '\.\[stream\]'"):
        StreamedLatents(folder="nowhere").setup("fit")
    write(tmp_path)
    with pytest.raises(SystemExit, match=r"error: streams of latents need another package"):
        run_command(command, ["--cache", str(tmp_path), "--out", str(tmp_path / "out")])


@needs_litdata
@pytest.mark.parametrize("place", ["{}", "local:{}"], ids=["in_place", "fetched"])
def test_a_stream_has_what_the_cache_has(made: Path, place: str) -> None:
    """Also where LitData fetches chunks before it reads them, as from object storage."""
    streamed, cached = source(place.format(made / "stream")), CachedLatents(CLIP, folder=str(made / "cache"))
    assert streamed.header == cached.header and (streamed.class_names, streamed.captions) == (cached.class_names, cached.captions)
    for split in ("train", "val", "test"):
        found, expected = streamed.dataset(split), cached.dataset(split)
        assert len(found) == len(expected) == (50 if split == "train" else 7)
        for number in (len(found) - 1, 0, 3):
            item, wanted = found[number], expected[number]
            assert torch.equal(item.pop("latent"), wanted.pop("latent")) and item == wanted
    seen = {clip: batch["latent"][place] for batch in streamed.train_dataloader() for place, clip in enumerate(batch["index"].tolist())}
    assert len(seen) == 48
    assert all(torch.equal(latent, cached.dataset("train")[clip - 100]["latent"]) for clip, latent in seen.items())
    held_out = [clip for batch in clips(streamed.val_dataloader()) for clip in batch]
    assert held_out == [item["index"] for item in cached.dataset("val")]


@needs_litdata
def test_shorter_clips_are_cut(made: Path) -> None:
    data = StreamedLatents(Clip(1, 16, 16), folder=str(made / "stream"))
    assert data.dataset("train")[5]["latent"].shape == next(iter(data.train_dataloader()))["latent"][0].shape == (8, 1, 4, 4)


@needs_litdata
@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_goes_on_where_its_state_was_saved(made: Path, workers: int) -> None:
    loader = source(made / "stream", workers=workers).train_dataloader()
    first, second, third = (clips(loader) for _ in range(3))
    assert len(first) == len(loader) == 12 and first != second != third
    assert all(len({clip for batch in epoch for clip in batch}) == 48 for epoch in (first, second, third))
    for stop in (1, 5, 11, 12):
        saved = source(made / "stream", workers=workers)
        iterator = iter(saved.train_dataloader())
        assert [next(iterator)["index"].tolist() for _ in range(stop)] == first[:stop]
        state = json.loads(json.dumps(saved.state_dict()))
        resumed = source(made / "stream", workers=workers)
        resumed.load_state_dict(state)
        loader = resumed.train_dataloader()
        assert [clips(loader), clips(loader)] == ([first[stop:], second] if stop < 12 else [second, third])


@needs_litdata
def test_processes_share_an_epoch(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(2):
        for name, value in (("WORLD_SIZE", 2), ("GLOBAL_RANK", rank), ("NNODES", 1)):
            monkeypatch.setenv(name, str(value))
        shares.append(clips(source(made / "stream").train_dataloader()))
    assert len(shares[0]) == len(shares[1]) == 6
    assert len({clip for share in shares for batch in share for clip in batch}) == 48


@needs_litdata
def test_too_few_clips_are_refused(made: Path) -> None:
    assert len(source(made / "stream", batch_size=50).train_dataloader()) == 1
    with pytest.raises(ValueError, match=r"do not fill one batch of 51 for every process"):
        source(made / "stream", batch_size=51).train_dataloader()


@needs_litdata
def test_a_changed_latent_is_refused_by_the_name_of_its_stream(tmp_path: Path) -> None:
    make(tmp_path, SETTLED)
    (chunk,) = (tmp_path / "stream/val").glob("*.bin")
    content = bytearray(chunk.read_bytes())
    content[content.index(raw(CachedLatents(CLIP, folder=str(tmp_path / "cache")).dataset("val")[1]["latent"])) + 9] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match=r"stream/val is damaged: clip \d+ does not match its checksum; write the stream again"):
        clips(source(tmp_path / "stream").val_dataloader())


@needs_litdata
def test_a_stream_is_of_one_cache_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no complete stream of latents in .*gone \(.*\): use python -m scripts\.stream_latents"):
        source(tmp_path / "gone")
    write(tmp_path / "cache", SETTLED)
    write(tmp_path / "other", replace(SETTLED, clip=Clip(5, 16, 16, 4)))
    out = tmp_path / "stream"

    class Killed(Exception):
        pass

    def kill(*arguments: Any) -> None:
        raise Killed

    plain = stream_latents._write
    monkeypatch.setattr(stream_latents, "_write", lambda *task: plain(*task) if task[2].endswith(("plan", "train")) else kill())
    with pytest.raises(Killed):
        write_stream(LatentCache(tmp_path / "cache"), str(out))
    with pytest.raises(ValueError, match=r"no complete stream of latents in .*stream \(.*val"):
        source(out)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    monkeypatch.setattr(stream_latents, "_write", plain)
    run_command(command, ["--cache", str(tmp_path / "cache"), "--out", str(out)])
    assert all(path.read_bytes() == content for path, content in before.items())
    assert clips(source(out).val_dataloader()) == clips(CachedLatents(CLIP, folder=str(tmp_path / "cache")).val_dataloader())
    with pytest.raises(SystemExit, match=r"error: .*stream was begun with clip\.fps 8\.0, not 4"):
        run_command(command, ["--cache", str(tmp_path / "other"), "--out", str(out)])


@needs_litdata
def test_a_run_over_a_stream_resumes_exactly(tmp_path: Path) -> None:
    tokenizer = run("fit", "tokenizer", tmp_path / "tokenizer")
    write_stream(LatentCache(encode(tmp_path / "encoded", tokenizer)), str(tmp_path / "stream"))
    stream = ("-c", CONFIGS / "data/streamed.yaml", "--data.folder", tmp_path / "stream", "--init_from", tokenizer)
    steps = ("--trainer.val_check_interval", 3, "--checkpoint.every_n_train_steps", 1, "--ckpt_path", "last")
    for root, stops in (("whole", (6,)), ("parts", (3, 5, 6))):
        for stop in stops:
            run("fit", "videoar", tmp_path / root, *stream, *steps, "--trainer.max_steps", stop)
    whole, parts = (losses(tmp_path / root) for root in ("whole", "parts"))
    assert len(whole) == 8 and parts == whole


@needs_litdata
@pytest.mark.slow
def test_two_processes_over_a_stream_resume_exactly(tmp_path: Path) -> None:
    """Also in the midst of an epoch; each of them has to find its own place in its own share."""
    tokenizer = run("fit", "tokenizer", tmp_path / "tokenizer")
    write_stream(LatentCache(encode(tmp_path / "encoded", tokenizer)), str(tmp_path / "stream"))
    stream = ("-c", CONFIGS / "data/streamed.yaml", "--data.folder", tmp_path / "stream", "--init_from", tokenizer)
    two = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.batch_size", 2, "--data.workers", 1, "--ckpt_path", "last")
    for root, stops in (("whole", (5,)), ("parts", (3, 5))):
        for stop in stops:
            args = arguments("fit", "videoar", tmp_path / root, *stream, *two, "--trainer.max_steps", stop)
            result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=600)
            assert result.returncode == 0, result.stderr[-2000:]
    whole, parts = (weights(tmp_path / root / "checkpoints" / "last.ckpt") for root in ("whole", "parts"))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


class NoClient(Exception):
    """Like the errors of the clients of object storage, of which each has its own."""


def test_errors_of_an_object_storage_end_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **settings: Any) -> None:
        raise NoClient("no credentials\nand much more")

    monkeypatch.setattr(litdata_format, "litdata", lambda: SimpleNamespace(StreamingDataset=refuse))
    monkeypatch.setattr(stream_latents, "litdata", lambda: SimpleNamespace(optimize=refuse))
    with pytest.raises(ValueError, match=r"no complete stream of latents in s3://bucket \(no credentials\)"):
        source("s3://bucket")
    write(tmp_path, SETTLED)
    with pytest.raises(SystemExit, match=r"error: s3://bucket/plan cannot be written \(no credentials\); if it exists"):
        run_command(command, ["--cache", str(tmp_path), "--out", "s3://bucket"])
