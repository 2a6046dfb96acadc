"""Generated clips as files, with everything that is needed to make them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from callbacks.manifest import Manifest
from callbacks.media import contact_sheet, write_picture, write_preview
from callbacks.mp4 import write_mp4
from callbacks.origin import origin
from modules.batch import Requests


class WriteVideos(BasePredictionWriter):
    """Writes the clips of ``predict``.

    A clip becomes ``<name>.mp4``, the magnified animation ``<name>.webp`` and a line of ``manifest.jsonl``: its condition, seed,
    length, sampling settings and checkpoint. A clip that is made again replaces its files and its line. ``contact_sheet.png`` shows
    the first clips. With several processes each keeps a manifest of its own until the end, when they are joined; the folder must then
    be one that all of them see, and the sheet shows the clips of the first process.

    Args:
        folder: Folder to write to, made if missing.
        magnify: Every pixel of the animation becomes a square of this side.
        sheet_rows: Most clips on the contact sheet; 0 for no sheet.

    Raises:
        ValueError: If ``magnify`` is below 1 or ``sheet_rows`` is negative.
    """

    def __init__(self, folder: str, magnify: int = 4, sheet_rows: int = 16) -> None:
        super().__init__("batch")
        if magnify < 1:
            raise ValueError(f"magnify must be at least 1, got {magnify}")
        if sheet_rows < 0:
            raise ValueError(f"sheet_rows must not be negative, got {sheet_rows}")
        self.folder, self.magnify, self.sheet_rows = Path(folder), magnify, sheet_rows
        self._manifest = Manifest(self.folder / "manifest.jsonl")

    # Manifests are joined in setup and teardown, as processes meet there and one without a batch is not called in between.
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            self._manifest.start(trainer)
            self._shown: list[tuple[Tensor, str]] = []

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: Requests,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the clips of one batch: ``prediction["video"]``, ``(B, 3, T, H, W)`` uint8."""
        rows = []
        for number, video in zip(range(len(batch["name"])), prediction["video"].cpu(), strict=True):
            rows.append(self._write_clip(video, batch, number) | origin(trainer, pl_module))
            if trainer.is_global_zero and len(self._shown) < self.sheet_rows:
                self._shown.append((video, batch["condition"][number]))
        self._manifest.add(rows)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shown:
            sheet = contact_sheet([video for video, _ in self._shown], [condition for _, condition in self._shown])
            write_picture(self.folder / "contact_sheet.png", sheet)
        self._shown = []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            self._manifest.join(trainer)

    def _write_clip(self, video: Tensor, batch: Requests, number: int) -> dict[str, Any]:
        """Write one clip's files; returns what the manifest says about the clip itself."""
        name = batch["name"][number]
        if not name or Path(name).name != name:
            raise ValueError(f"the name of a clip must be a file name without a folder, got {name!r}")
        write_mp4(self.folder / f"{name}.mp4", video, batch["fps"])
        write_preview(self.folder / f"{name}.webp", video, batch["fps"], self.magnify)
        return {
            "file": f"{name}.mp4",
            "preview": f"{name}.webp",
            "condition": batch["condition"][number],
            "seed": batch["seed"][number],
            "frames": video.shape[1],
            "fps": batch["fps"],
            "prefix_frames": batch["prefix"].shape[2] if "prefix" in batch else 0,
        }
