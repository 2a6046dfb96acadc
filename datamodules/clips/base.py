"""Base of the data modules that read clips from video and image files."""

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
from datamodules.clips.manifest import ClipRecord
from datamodules.clips.unreadable import UnreadablePolicy
from datamodules.decoding.transforms import RESIZE_RULE
from modules.geometry import Clip


class FileClips(ClipDataModule):
    """Clips from files. Subclasses define the files, their labels and the splits.

    Validation and test use the same clips, from the middle of their files. Class ids cover all labels, so that they are the same in every
    training stage.

    Args:
        clip: Number, rate and size of the frames. Images are used only if it has one frame.
        views: Temporal and spatial crops of training clips; by default the same on every visit.
        broken_limit: Largest fraction of files that may be unreadable; they are replaced, and listed in ``broken_files.jsonl`` in the
            folder of the run.
        time_limit: Seconds that decoding a clip may take, checked between packets; a file that takes longer is unreadable.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order and the crops.
        milestones: Size of training clips before a step, by the step.

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
    def train_records(self, clip: Clip) -> list[ClipRecord]:
        """Return the training records that are long enough for a clip."""

    @abstractmethod
    def held_out_records(self) -> list[ClipRecord]:
        """Return the records for validation and test."""

    @abstractmethod
    def labels(self) -> list[str | int]:
        """Return all labels in the order of their class ids, those of unused records included."""

    @property
    def policy(self) -> UnreadablePolicy:
        """Handling of unreadable files."""
        report = Path(self.trainer.default_root_dir, "broken_files.jsonl") if self.trainer else None
        return UnreadablePolicy(self.broken_limit, self.time_limit, report)

    @property
    def class_names(self) -> list[str]:
        return [str(label) for label in self._class_ids]

    @property
    def captions(self) -> list[str]:
        return []

    @property
    def preprocessing(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for clips in (self.dataset("train"), self.dataset("val")):
            for record in clips.records:
                digest.update(json.dumps([record.listed_path, record.start, record.end, record.label, record.caption]).encode())
        views = {"kind": type(self.views).__name__, **vars(self.views)}
        return {**super().preprocessing, "resize": RESIZE_RULE, "views": views, "rows": digest.hexdigest()}

    @property
    def changing(self) -> bool:
        return self.views.changing

    def dataset(self, split: str, clip: Clip | None = None) -> FolderClips:
        """Return the clips of "train", "val" or "test"; the last two are the same."""
        key = (split == "train", clip or self.clip)
        if key not in self._datasets:
            self._datasets[key] = self._make(*key)
        return self._datasets[key]

    def reference(self, split: str) -> FolderClips:
        """Return the clips of a split from the middle of their files, those of "train" included."""
        return self._centre_crops(self.train_records(self.clip), self.clip) if split == "train" else self.dataset(split)

    def _make(self, train: bool, clip: Clip) -> FolderClips:
        if train:
            records = self.train_records(clip)
            return self.train_set(records, clip, total=len(records))
        return self._centre_crops(self.held_out_records(), clip)

    def _centre_crops(self, records: list[ClipRecord], clip: Clip) -> FolderClips:
        return FolderClips(records, clip, self._class_ids, policy=self.policy)

    def train_set(self, records: list[ClipRecord], clip: Clip, total: int) -> FolderClips:
        """Return training clips of some of ``total`` records; ``broken_limit`` applies to the total."""
        self.views.check(self._class_ids)
        policy = replace(self.policy, limit=min(1.0, self.policy.limit * total / max(1, len(records))))
        return FolderClips(records, clip, self._class_ids, crop=partial(self.views.crop, self.seed), policy=policy)

    @cached_property
    def _class_ids(self) -> dict[str | int, int]:
        return {label: number for number, label in enumerate(self.labels())}
