"""Generated clips as files, with everything that is needed to make them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from callbacks.files import write_text
from callbacks.media import contact_sheet, write_mp4, write_picture, write_preview
from callbacks.origin import origin
from modules.batch import Requests

MANIFEST = "manifest.jsonl"


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

    # Manifests are joined in setup and teardown, as processes meet there and one without a batch is not called in between.
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        self._join_manifests(trainer)
        several = trainer.world_size > 1
        self._manifest = self.folder / (f"manifest.rank{trainer.global_rank}.jsonl" if several else MANIFEST)
        self._lines = _read_manifest(self._manifest)
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
        for number, (name, video) in enumerate(zip(batch["name"], prediction["video"].cpu(), strict=True)):
            line = self._write_clip(video, batch, number) | origin(trainer, pl_module)
            self._lines[name] = json.dumps(line, ensure_ascii=False)
            if trainer.is_global_zero and len(self._shown) < self.sheet_rows:
                self._shown.append((video, batch["condition"][number]))
        # The whole file, as lines of an earlier run may have been replaced.
        _write_manifest(self._manifest, self._lines)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._shown:
            sheet = contact_sheet([video for video, _ in self._shown], [condition for _, condition in self._shown])
            write_picture(self.folder / "contact_sheet.png", sheet)
        self._shown = []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            self._join_manifests(trainer)

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

    def _join_manifests(self, trainer: Trainer) -> None:
        """Move the lines of every process into the one manifest; at the start, those that an interrupted run left behind."""
        trainer.strategy.barrier()
        parts = sorted(self.folder.glob("manifest.rank*.jsonl"))
        if trainer.is_global_zero and parts:
            lines = _read_manifest(self.folder / MANIFEST)
            for part in parts:
                lines |= _read_manifest(part)
            _write_manifest(self.folder / MANIFEST, lines)
            for part in parts:
                part.unlink()
        trainer.strategy.barrier()


def _read_manifest(path: Path) -> dict[str, str]:
    """Lines of a manifest by the name of the clip; none if there is no such file."""
    if not path.exists():
        return {}
    # Not splitlines, which also splits at line separators inside a text.
    lines = path.read_text(encoding="utf-8").split("\n")
    return {json.loads(line)["file"].removesuffix(".mp4"): line for line in lines if line}


def _write_manifest(path: Path, lines: dict[str, str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines.values()))
