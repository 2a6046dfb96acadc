"""Generated clips as files, with everything needed to reproduce them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from callbacks.records.provenance import sampling_provenance
from callbacks.writers.manifest import Manifest
from callbacks.writers.media import contact_sheet, write_png, write_preview
from callbacks.writers.mp4 import write_mp4
from modules.batch import Requests
from modules.storage.checksums import source_hash

Format = Literal["mp4", "webp", "gif"]


class WriteVideos(BasePredictionWriter):
    """Writes the clips of ``predict``.

    A clip becomes a file of every format, ``<name>.mp4`` and so on, and a line of ``manifest.jsonl``: condition, seed, size and prefix,
    sampling settings, checkpoint and the checkpoint's SHA-256. A clip is kept and not generated again if its files exist and its line is
    equal except for the checkpoint's path; otherwise it is replaced. ``contact_sheet.png`` shows the first clips of the run. With several
    processes, which must share the folder, their manifests are joined at the end, and the sheet shows clips of the first process.

    Args:
        folder: Folder to write to, made if missing.
        formats: File formats: H.264, or animations, lossless (webp) or with 256 colours (gif). The manifest names the first.
        magnify: Side in pixels of the square that every pixel of an animation becomes.
        sheet_rows: Maximum number of clips on the contact sheet; 0 for no sheet.

    Raises:
        ValueError: If there is no format or a repeated one, ``magnify`` is below 1 or ``sheet_rows`` is negative.
    """

    def __init__(self, folder: str, formats: Sequence[Format] = ("mp4", "webp"), magnify: int = 4, sheet_rows: int = 16) -> None:
        super().__init__("batch")
        if not formats or len(set(formats)) < len(formats):
            raise ValueError(f"formats must name at least one format, and none twice, got {', '.join(formats) or 'none'}")
        if magnify < 1:
            raise ValueError(f"magnify must be at least 1, got {magnify}")
        if sheet_rows < 0:
            raise ValueError(f"sheet_rows must not be negative, got {sheet_rows}")
        self.folder, self.formats, self.magnify, self.sheet_rows = Path(folder), formats, magnify, sheet_rows
        self._manifest = Manifest(self.folder / "manifest.jsonl")

    # Manifests are joined in setup and teardown, which every process reaches, also one without a batch.
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "predict":
            self._manifest.start(trainer)
            self._earlier = self._manifest.rows()
            self._run = trainer, pl_module
            self._made_by: dict[str, Any] = {}
            self._sheet: list[tuple[Tensor, str]] = []

    def has_clip(self, name: str, asked: dict[str, Any]) -> bool:
        """Return True if a clip exists; see :class:`modules.batch.KeepsClips`. Called before any process writes."""
        row = self._row(name, asked)
        equal = _comparable(self._earlier.get(row["file"], {})) == _comparable(row) and row["weights"] is not None
        return equal and all((self.folder / file).is_file() for file in self._files(name))

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
        for number, video in enumerate(prediction["video"].cpu()):
            self._write_clip(video, batch["name"][number], batch["fps"])
            if trainer.is_global_zero and len(self._sheet) < self.sheet_rows:
                self._sheet.append((video, "\nthen ".join([batch["condition"][number], *(text for _, text in batch["then"][number])])))
        self._manifest.add(self._row(name, asked) for name, asked in zip(batch["name"], batch["asked"], strict=True))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._sheet:
            sheet = contact_sheet([video for video, _ in self._sheet], [condition for _, condition in self._sheet])
            write_png(self.folder / "contact_sheet.png", sheet)
        self._sheet = []

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            self._manifest.join(trainer)

    def _row(self, name: str, asked: dict[str, Any]) -> dict[str, Any]:
        """Line of the manifest."""
        if not self._made_by:
            # Not in setup, where the trainer's checkpoint is not yet known.
            self._made_by = sampling_provenance(*self._run)
            self._made_by["weights"] = source_hash(self._made_by["checkpoint"])
        first, *others = self._files(name)
        return {"file": first, "others": others, **asked, **self._made_by}

    def _files(self, name: str) -> list[str]:
        """The files of a clip, relative to the folder."""
        path = PurePosixPath(name)
        if not path.name or path.is_absolute() or ".." in path.parts or str(path) != name:
            raise ValueError(f"a clip's name must be a file path within the folder, got {name!r}")
        return [f"{name}.{kind}" for kind in self.formats]

    def _write_clip(self, video: Tensor, name: str, fps: float) -> None:
        for file in self._files(name):
            if file.endswith(".mp4"):
                write_mp4(self.folder / file, video, fps)
            else:
                write_preview(self.folder / file, video, fps, self.magnify)


def _comparable(row: dict[str, Any]) -> dict[str, Any]:
    """A row as read from a file, without fields that may differ between runs that make the same clip."""
    return {key: value for key, value in json.loads(json.dumps(row)).items() if key not in ("others", "checkpoint")}
