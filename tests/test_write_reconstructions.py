"""Laws of written reconstructions: every frame compared and shown once, and nothing that is not whole."""

import csv
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from test_media import read_mp4
from test_reader import LEVELS, write_video
from torch import Tensor

from callbacks import WriteReconstructions
from callbacks.writers.write_reconstructions import COLUMNS, _FrameSamples, psnr
from datamodules import VideoFiles
from modules.batch import FileChunk


class Lagging(LightningModule):
    """Halves the brightness but for every tenth frame, and like a tokenizer holds frames back until there are four."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.weights_source = "start.safetensors"
        self.fails_at = fails_at

    def predict_step(self, batch: FileChunk, batch_index: int) -> dict[str, Tensor]:
        if batch_index == self.fails_at:
            raise RuntimeError("the machine is lost")
        if batch["first"]:
            self.waiting, self.done = batch["video"][:, :, :0], 0
        self.waiting = torch.cat([self.waiting, batch["video"]], dim=2)
        count = self.waiting.shape[2] // (1 if batch["last"] else 4) * (1 if batch["last"] else 4)
        real, self.waiting = self.waiting[:, :, :count], self.waiting[:, :, count:]
        reconstructed = real // 2
        for number in range(count):
            if (self.done + number) % 10 == 0:
                reconstructed[:, :, number] = real[:, :, number]
        self.done += count
        return {"real": real, "reconstructed": reconstructed}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "a.mkv", LEVELS[:13], codec="ffv1", size=(37, 53), pixels="yuv444p")
    write_video(folder / "b.mp4", LEVELS[:30], [number / 10 for number in range(30)])
    return folder


def predict(source: Path, folder: Path, model: LightningModule | None = None, chunk_frames: int = 3, **settings: Any) -> list[str]:
    """Run it; returns the names of the files it left."""
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    writer = WriteReconstructions(str(folder))
    trainer = Trainer(default_root_dir=folder.parent, callbacks=[writer], **quiet, **settings)  # type: ignore[arg-type]
    trainer.predict(model or Lagging(), VideoFiles([str(source)], chunk_frames), return_predictions=False)
    return names_in(folder)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def chunks_of(source: Path, chunk_frames: int) -> Iterator[FileChunk]:
    data = VideoFiles([str(source)], chunk_frames)
    data.setup("predict")
    return iter(data.predict_dataloader())


def frames_of(source: Path) -> Tensor:
    return next(chunks_of(source, 1000))["video"][0]


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open() as lines:
        return list(csv.DictReader(lines))


def lines_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = map(json.loads, (folder / "reconstructions.jsonl").read_text().splitlines())
    return {line["file"]: line for line in lines}


WHOLE = ["a.csv", "a.mp4", "b.csv", "b.mp4", "contact_sheet.png", "reconstructions.jsonl"]


@pytest.mark.parametrize("chunk_frames", [1, 16])
def test_every_frame_is_shown_beside_its_reconstruction_and_compared(videos: Path, tmp_path: Path, chunk_frames: int) -> None:
    folder = tmp_path / "made"
    assert predict(videos, folder, chunk_frames=chunk_frames) == WHOLE
    for name, size in (("a.mkv", (37, 53)), ("b.mp4", (48, 64))):
        real, fps = frames_of(videos / name), next(chunks_of(videos / name, 1))["fps"]
        frames = real.shape[1]
        expected = real // 2
        expected[:, ::10] = real[:, ::10]

        rows = rows_of(folder / f"{name[0]}.csv")
        assert [int(row["frame"]) for row in rows] == list(range(frames))
        assert [float(row["seconds"]) for row in rows] == pytest.approx([number / fps for number in range(frames)], abs=1e-6)
        for number, row in enumerate(rows):
            error = np.mean((real[:, number].numpy().astype(float) - expected[:, number].numpy().astype(float)) ** 2)
            assert float(row["psnr"]) == (math.inf if error == 0 else pytest.approx(20 * math.log10(255 / math.sqrt(error)), abs=1e-4))
        assert rows[0]["psnr"] == "inf" != rows[1]["psnr"]

        shown, shown_fps = read_mp4(folder / f"{name[0]}.mp4")
        assert shown.shape == (3, frames, size[0] + size[0] % 2, 2 * size[1]) and shown_fps == pytest.approx(fps, rel=1e-3)
        pair = torch.cat([real, expected], dim=3).float()
        assert (shown[:, :, : size[0]].float() - pair).abs().mean() < 3.0

        assert lines_of(folder)[f"{name[0]}.mp4"] == {
            "file": f"{name[0]}.mp4",
            "table": f"{name[0]}.csv",
            "source": str(videos / name),
            "frames": frames,
            "fps": fps,
            "height": size[0],
            "width": size[1],
            "mean_psnr": None,
            "min_psnr": pytest.approx(min(float(row["psnr"]) for row in rows), abs=1e-4),
            "checkpoint": "start.safetensors",
        }


def test_the_mean_is_that_of_the_frames(videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Darker(LightningModule):
        def predict_step(self, batch: FileChunk, batch_index: int) -> dict[str, Tensor]:
            return {"real": batch["video"], "reconstructed": batch["video"] // 2}

    with caplog.at_level(logging.INFO):
        predict(videos, tmp_path, Darker())
    mean = np.mean([float(row["psnr"]) for row in rows_of(tmp_path / "b.csv")])
    assert lines_of(tmp_path)["b.mp4"]["mean_psnr"] == pytest.approx(mean, abs=1e-4)
    assert f"b: 30 frames, mean PSNR {mean:.2f} dB" in caplog.text


def test_psnr() -> None:
    grey = torch.full((3, 5, 7), 100, dtype=torch.uint8)
    assert psnr(grey, grey) == math.inf
    assert psnr(grey, grey + 1) == psnr(grey + 1, grey) == pytest.approx(20 * math.log10(255))
    assert psnr(torch.zeros_like(grey), torch.full_like(grey, 255)) == 0.0


def test_an_interrupted_run_leaves_whole_files_only(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with pytest.raises(RuntimeError, match="the machine is lost"):
        predict(videos, folder, Lagging(fails_at=8))  # a has 5 chunks
    assert names_in(folder) == ["a.csv", "a.mp4", "contact_sheet.png", "reconstructions.jsonl"]
    assert list(lines_of(folder)) == ["a.mp4"]
    assert predict(videos, folder) == WHOLE
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for fails_at in (0, 3, 14):
        with pytest.raises(RuntimeError, match="the machine is lost"):
            predict(videos, folder, Lagging(fails_at))
        assert before == {path: path.read_bytes() for path in folder.iterdir()}
    assert predict(videos, folder) == WHOLE
    assert before == {path: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_stops_before_the_end_of_a_file_says_so(videos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict(videos, tmp_path, limit_predict_batches=7)
    assert names_in(tmp_path) == ["a.csv", "a.mp4", "contact_sheet.png", "reconstructions.jsonl"]
    assert f"{videos / 'b.mp4'}: not finished" in caplog.text


def test_a_file_is_not_replaced_by_its_reconstruction(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", LEVELS[:5])
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"a\.mp4: its reconstruction would replace it"):
        predict(path, tmp_path)
    assert path.read_bytes() == content and not (tmp_path / "a.csv").exists()


def test_several_processes_write_one_manifest(videos: Path, tmp_path: Path) -> None:
    def start(rank: int) -> tuple[WriteReconstructions, Any]:
        strategy = SimpleNamespace(barrier=lambda: None)
        trainer = SimpleNamespace(world_size=2, global_rank=rank, is_global_zero=rank == 0, strategy=strategy, ckpt_path="a.ckpt")
        writer = WriteReconstructions(str(tmp_path))
        writer.setup(trainer, Lagging(), "predict")  # type: ignore[arg-type]
        return writer, trainer

    def write(writer: WriteReconstructions, trainer: Any, source: Path) -> None:
        model = Lagging()
        for number, batch in enumerate(chunks_of(source, 4)):
            writer.write_on_batch_end(trainer, model, model.predict_step(batch, number), None, batch, number, 0)
        writer.on_predict_end(trainer, model)

    writers = [start(0), start(1)]
    write(*writers[1], videos / "b.mp4")
    assert not (tmp_path / "contact_sheet.png").exists()
    write(*writers[0], videos / "a.mkv")
    for writer, trainer in writers[::-1]:
        writer.teardown(trainer, Lagging(), "predict")
    assert names_in(tmp_path) == WHOLE
    assert {name: line["frames"] for name, line in lines_of(tmp_path).items()} == {"a.mp4": 13, "b.mp4": 30}
    assert lines_of(tmp_path)["a.mp4"]["checkpoint"] == "a.ckpt"


@pytest.mark.parametrize("frames", [1, 2, COLUMNS, COLUMNS + 1, 100, 1000])
def test_few_frames_are_kept_and_they_span_the_file(frames: int) -> None:
    samples = _FrameSamples()
    for number in range(frames):
        samples.add(number, torch.tensor(number))
        assert len(samples.frames) <= COLUMNS
    assert [int(frame) for frame in samples.frames] == list(range(0, frames, samples.step))
    assert frames <= COLUMNS or len(samples.frames) > COLUMNS // 2


def test_the_sheet_shows_the_first_file(videos: Path, tmp_path: Path) -> None:
    predict(videos, tmp_path)
    with Image.open(tmp_path / "contact_sheet.png") as sheet:
        colours = set(map(tuple, np.array(sheet).reshape(-1, 3).tolist()))
    real = frames_of(videos / "a.mkv")
    assert {tuple(real[:, number, 4, 4].tolist()) for number in (0, 2, 4, 12)} <= colours
    assert {tuple((real[:, number, 4, 4] // 2).tolist()) for number in (2, 4, 12)} <= colours
