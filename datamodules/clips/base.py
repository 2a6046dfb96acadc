"""Clips from video and picture files, however they are listed."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from datamodules.base import ClipDataModule, StageOverride
from datamodules.clips.cropping import FixedViews, Views
from datamodules.clips.dataset import FolderClips
from datamodules.clips.manifest import Row
from datamodules.clips.unreadable import Tolerance
from datamodules.decoding.transforms import RULE
from modules.geometry import Clip


class FileClips(ClipDataModule):
    """Clips from files. Children say which files there are, what they are called, and which are for training.

    Validation and test use the same clips, cut from the middle of their files. Class ids are those of all labels, so that they are the
    same in every stage of a training.

    Args:
        clip: What a clip measures. Pictures are used if it has one frame, and left out if it has more.
        views: What a training clip shows of its file, in time and on the screen; the same at every visit if not given.
        broken_limit: Largest share of files that may be unreadable; those within it are replaced, and listed in ``broken_files.jsonl`` in
            the run's folder.
        time_limit: Seconds that reading a clip may take; a file that takes longer is unreadable.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order and the views.
        milestones: What training clips measure before a step, by the step.

    Raises:
        ValueError: If ``broken_limit`` is outside 0..1 or ``time_limit`` is not positive.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        views: Views | None = None,
        broken_limit: float = 0.1,
        time_limit: float = 60.0,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
        milestones: dict[int, StageOverride] | None = None,
    ) -> None:
        super().__init__(clip, batch_size=batch_size, workers=workers, seed=seed, milestones=milestones)
        if not 0 <= broken_limit <= 1:
            raise ValueError(f"broken_limit must be within 0..1, got {broken_limit}")
        if time_limit <= 0:
            raise ValueError(f"time_limit must be positive, got {time_limit}")
        self.views, self.broken_limit, self.time_limit = views or FixedViews(), broken_limit, time_limit
        self._datasets: dict[tuple[bool, Clip], FolderClips] = {}

    @abstractmethod
    def train_rows(self, clip: Clip) -> list[Row]:
        """The rows to train on that are long enough for a clip."""

    @abstractmethod
    def held_out_rows(self) -> list[Row]:
        """The rows to validate and test on."""

    @abstractmethod
    def labels(self) -> list[str | int]:
        """All labels by class id, also those of rows that are not used."""

    @property
    def tolerance(self) -> Tolerance:
        """What is done about files that cannot be read."""
        report = Path(self.trainer.default_root_dir, "broken_files.jsonl") if self.trainer else None
        return Tolerance(self.broken_limit, self.time_limit, report)

    @property
    def class_names(self) -> list[str]:
        return [str(label) for label in self._class_ids]

    @property
    def captions(self) -> list[str]:
        return []

    @property
    def preprocessing(self) -> dict[str, Any]:
        rows = hashlib.sha256()
        for clips in (self.dataset("train"), self.dataset("val")):
            for row in clips.rows:
                rows.update(json.dumps([row.written, row.start, row.end, row.label, row.caption]).encode())
        views = {"kind": type(self.views).__name__, **vars(self.views)}
        return {**super().preprocessing, "resize": RULE, "views": views, "rows": rows.hexdigest()}

    @property
    def changing(self) -> bool:
        return self.views.changing

    def dataset(self, split: str, clip: Clip | None = None) -> FolderClips:
        """The clips of "train", "val" or "test"; the last two are the same."""
        key = (split == "train", clip or self.clip)
        if key not in self._datasets:
            self._datasets[key] = self._make(*key)
        return self._datasets[key]

    def reference(self, split: str) -> FolderClips:
        """The clips of a split, those of "train" cut from the middle of their files as well, whatever a training shows of them."""
        return self._middles(self.train_rows(self.clip), self.clip) if split == "train" else self.dataset(split)

    def _make(self, train: bool, clip: Clip) -> FolderClips:
        if train:
            rows = self.train_rows(clip)
            return self.train_set(rows, clip, of=len(rows))
        return self._middles(self.held_out_rows(), clip)

    def _middles(self, rows: list[Row], clip: Clip) -> FolderClips:
        return FolderClips(rows, clip, self._class_ids, tolerance=self.tolerance)

    def train_set(self, rows: list[Row], clip: Clip, of: int) -> FolderClips:
        """Training clips of some rows out of ``of``, whose share may be unreadable."""
        self.views.check(self._class_ids)
        tolerance = replace(self.tolerance, limit=min(1.0, self.tolerance.limit * of / max(1, len(rows))))
        return FolderClips(rows, clip, self._class_ids, view=partial(self.views.view, self.seed), tolerance=tolerance)

    @cached_property
    def _class_ids(self) -> dict[str | int, int]:
        return {label: number for number, label in enumerate(self.labels())}
