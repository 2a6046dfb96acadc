"""Video files beside their reconstructions, with the PSNR of every frame."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from PIL import Image
from torch import Tensor

from callbacks.records.provenance import sampling_provenance
from callbacks.writers.manifest import Manifest
from callbacks.writers.media import contact_sheet, write_png
from callbacks.writers.mp4 import Mp4Writer
from modules.batch import FileChunk
from modules.metrics.evaluation.report import finite
from modules.storage.atomic_files import atomic_write

# Below Lightning's logger, which shows messages of level INFO, on every process.
logger = logging.getLogger(f"lightning.pytorch.{__name__}")

# Maximum number of frames of a file on the contact sheet.
COLUMNS = 9


class WriteReconstructions(BasePredictionWriter):
    """Writes the reconstructions of ``predict`` over video files of any length, incrementally.

    A file becomes ``<name>.mp4``, the input at the left and the reconstruction at the right; ``<name>.csv`` with the PSNR of every frame
    in dB over its uint8 RGB values; and a line of ``reconstructions.jsonl``, where infinite mean and minimum PSNR are null.
    ``contact_sheet.png`` shows the first file. Only complete files appear, and a second run replaces those of the first. Several processes
    must share the folder; the sheet shows the first file of the first process.

    Args:
        folder: Folder to write to, made if missing.
    """

    def __init__(self, folder: str) -> None:
        super().__init__("batch")
        self.folder = Path(folder)
        self._manifest = Manifest(self.folder / "reconstructions.jsonl")
        self._open: _Reconstruction | None = None

    # Manifests are joined in setup and teardown, which every process reaches, also one without a file.
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            self._manifest.start(trainer)
            self._sheet_wanted = trainer.is_global_zero

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: FileChunk,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write some frames: ``prediction["real"]`` and ``prediction["reconstructed"]``, both ``(1, 3, n, H, W)`` uint8; n may be 0.

        Raises:
            ValueError: If the result would replace its input.
        """
        if batch["first"]:
            self._discard()
            self._open = _Reconstruction(self.folder, batch)
        assert self._open is not None, "a file begins with its first chunk"
        self._open.append(prediction["real"][0].cpu(), prediction["reconstructed"][0].cpu())
        if batch["last"]:
            finished, self._open = self._open, None
            self._manifest.add([finished.close() | {"checkpoint": sampling_provenance(trainer, pl_module)["checkpoint"]}])
            if self._sheet_wanted:
                write_png(self.folder / "contact_sheet.png", finished.sheet())
                self._sheet_wanted = False

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._discard()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._discard()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            self._manifest.join(trainer)

    def _discard(self) -> None:
        """Remove the output of a file whose end was not reached."""
        if self._open is not None:
            logger.warning("%s: not finished, its output is discarded", self._open.file)
            self._open.discard()
            self._open = None


class _Reconstruction:
    """Video and table of one file while they are written."""

    def __init__(self, folder: Path, chunk: FileChunk) -> None:
        self.file, self.name, self.fps = chunk["file"], chunk["name"], chunk["fps"]
        self.height, self.width = chunk["video"].shape[3:]
        self._scores: list[float] = []
        self._samples = _FrameSamples()
        video, table = folder / f"{self.name}.mp4", folder / f"{self.name}.csv"
        if video.resolve() == Path(self.file).resolve():
            raise ValueError(f"{self.file}: its reconstruction would replace it; choose a folder other than {folder}")
        with ExitStack() as files:
            self._table = files.enter_context(files.enter_context(atomic_write(table)).open("w", encoding="utf-8"))
            self._table.write("frame,seconds,psnr\n")
            self._video = files.enter_context(Mp4Writer(video, self.fps))
            self._files = files.pop_all()

    def append(self, real: Tensor, reconstructed: Tensor) -> None:
        """Add frames, both ``(3, n, H, W)`` uint8 on the CPU."""
        pairs = torch.cat([real, reconstructed], dim=3)
        if pairs.shape[1]:
            self._video.append(pairs)
        for number, pair in enumerate(pairs.unbind(1), start=len(self._scores)):
            score = psnr(*pair.chunk(2, dim=2))
            self._scores.append(score)
            self._table.write(f"{number},{number / self.fps:.6f},{score:.4f}\n")
            self._samples.add(number, pair)

    def close(self) -> dict[str, Any]:
        """Finish the files; returns the line of the manifest."""
        self._files.close()
        mean = fmean(self._scores)
        logger.info("%s: %d frames, mean PSNR %.2f dB", self.name, len(self._scores), mean)
        return {
            "file": f"{self.name}.mp4",
            "table": f"{self.name}.csv",
            "source": self.file,
            "frames": len(self._scores),
            "fps": self.fps,
            "height": self.height,
            "width": self.width,
            "mean_psnr": finite(mean),
            "min_psnr": finite(min(self._scores)),
        }

    def discard(self) -> None:
        """Remove the unfinished files; those of an earlier run stay."""
        unfinished = InterruptedError(f"{self.file} was not read to its end")
        self._files.__exit__(type(unfinished), unfinished, None)

    def sheet(self) -> Image.Image:
        """Two rows of evenly spaced frames: the file and its reconstruction."""
        real, reconstructed = torch.stack(self._samples.frames, dim=1).chunk(2, dim=3)
        return contact_sheet([real, reconstructed], [f"{self.name}\nreal", "reconstructed"], step=self._samples.step)


class _FrameSamples:
    """Every ``step``-th frame of a video of unknown length; ``step`` doubles whenever there are more than ``COLUMNS``."""

    def __init__(self) -> None:
        self.frames: list[Tensor] = []
        self.step = 1

    def add(self, number: int, frame: Tensor) -> None:
        """Consider the next frame."""
        if number % self.step == 0:
            # A copy, as the frame is a view that would keep its whole chunk in memory.
            self.frames.append(frame.clone())
        if len(self.frames) > COLUMNS:
            self.frames, self.step = self.frames[::2], 2 * self.step


def psnr(first: Tensor, second: Tensor) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images in dB over all their values; infinite if they are equal."""
    squares = (first.int() - second.int()).square().sum(dtype=torch.int64).item()
    return 10 * math.log10(255**2 * first.numel() / squares) if squares else math.inf
