"""Video files beside what a tokenizer makes of them, and how close the two are, frame by frame."""

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

from callbacks.records.provenance import origin
from callbacks.writers.manifest import Manifest
from callbacks.writers.media import contact_sheet, write_picture
from callbacks.writers.mp4 import Mp4Writer
from modules.batch import FileChunk
from modules.storage.atomic_files import atomic_write

# Lightning's logger shows what is informative, and below it every process may speak.
logger = logging.getLogger(f"lightning.pytorch.{__name__}")

# Most frames of a file on the contact sheet.
COLUMNS = 9


class WriteReconstructions(BasePredictionWriter):
    """Writes the reconstructions of ``predict`` over video files, of any length, as their frames come.

    A file becomes ``<name>.mp4``, the input at the left and the reconstruction at the right; ``<name>.csv`` with the PSNR of every frame,
    in dB over its uint8 RGB values; and a line of ``reconstructions.jsonl``, where the mean and the least PSNR are null if infinite.
    ``contact_sheet.png`` shows the first file. A file stays invisible until it is whole, and a second run replaces those of the first.
    With several processes the folder must be one that all of them see, and the sheet shows the first file of the first process.

    Args:
        folder: Folder to write to, made if missing.
    """

    def __init__(self, folder: str) -> None:
        super().__init__("batch")
        self.folder = Path(folder)
        self._manifest = Manifest(self.folder / "reconstructions.jsonl")
        self._open: _Comparison | None = None

    # Manifests are joined in setup and teardown, as processes meet there and one without a file is not called in between.
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
            ValueError: If the result would replace the file that is read.
        """
        if batch["first"]:
            self._discard()
            self._open = _Comparison(self.folder, batch, glimpses=self._sheet_wanted)
        assert self._open is not None, "a file begins with its first chunk"
        self._open.append(prediction["real"][0].cpu(), prediction["reconstructed"][0].cpu())
        if batch["last"]:
            comparison, self._open = self._open, None
            row = comparison.close() | {"checkpoint": origin(trainer, pl_module)["checkpoint"]}
            self._manifest.add([row])
            if self._sheet_wanted:
                write_picture(self.folder / "contact_sheet.png", comparison.sheet())
                self._sheet_wanted = False

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._discard()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._discard()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            self._manifest.join(trainer)

    def _discard(self) -> None:
        """Leave nothing of a file whose end did not come."""
        if self._open is not None:
            logger.warning("%s: not finished, so nothing of it is kept", self._open.file)
            self._open.discard()
            self._open = None


class _Comparison:
    """The video and the table of one file while they grow."""

    def __init__(self, folder: Path, chunk: FileChunk, glimpses: bool) -> None:
        self.file, self.name, self.fps = chunk["file"], chunk["name"], chunk["fps"]
        self.height, self.width = chunk["video"].shape[3:]
        self._scores: list[float] = []
        self._glimpses = _Glimpses() if glimpses else None
        video, table = folder / f"{self.name}.mp4", folder / f"{self.name}.csv"
        if video.resolve() == Path(self.file).resolve():
            raise ValueError(f"{self.file}: its reconstruction would replace it; choose another folder than {folder}")
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
            if self._glimpses is not None:
                self._glimpses.add(number, pair)

    def close(self) -> dict[str, Any]:
        """Put the files in their places; returns what the manifest says about them."""
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
            "mean_psnr": _finite(mean),
            "min_psnr": _finite(min(self._scores)),
        }

    def discard(self) -> None:
        """Remove the files that were begun; those of an earlier run stay."""
        unfinished = InterruptedError(f"{self.file} was not read to its end")
        self._files.__exit__(type(unfinished), unfinished, None)

    def sheet(self) -> Image.Image:
        """Two rows of evenly spaced frames: the file and its reconstruction."""
        assert self._glimpses is not None
        real, reconstructed = torch.stack(self._glimpses.frames, dim=1).chunk(2, dim=3)
        return contact_sheet([real, reconstructed], [f"{self.name}\nreal", "reconstructed"], step=self._glimpses.step)


class _Glimpses:
    """Every ``step``-th frame of a row of unknown length; ``step`` doubles whenever they become more than ``COLUMNS``."""

    def __init__(self) -> None:
        self.frames: list[Tensor] = []
        self.step = 1

    def add(self, number: int, frame: Tensor) -> None:
        """Look at the next frame."""
        if number % self.step == 0:
            # A copy, as the frame is a view that would keep its whole chunk.
            self.frames.append(frame.clone())
        if len(self.frames) > COLUMNS:
            self.frames, self.step = self.frames[::2], 2 * self.step


def psnr(first: Tensor, second: Tensor) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB over all their values; infinite if they are equal."""
    squares = (first.int() - second.int()).square().sum(dtype=torch.int64).item()
    return 10 * math.log10(255**2 * first.numel() / squares) if squares else math.inf


def _finite(number: float) -> float | None:
    """The number as JSON knows it."""
    return number if math.isfinite(number) else None
