"""Videos and images listed in a manifest or sorted into a folder per class."""

from __future__ import annotations

import hashlib
from functools import cached_property

from datamodules.base import StageOverride
from datamodules.clips.base import FileClips
from datamodules.clips.class_folders import read_records
from datamodules.clips.cropping import Views
from datamodules.clips.dataset import fitting_records, measured_records
from datamodules.clips.manifest import ClipRecord
from modules.geometry import Clip


class VideoFolder(FileClips):
    """Clips from video and image files, from a .jsonl manifest with a line per clip, or a folder with a folder of files per class.

    A line is ``{"path": "a/b.mp4", "caption": "a text", "label": "a class"}``. "path" is relative to the manifest or absolute; "caption"
    and "label" (a name or a whole number) are optional, and so are "start" and "end" in seconds. Further keys are for ``where``. In
    ``<folder>/<class>/<file>`` the label is the class; there are no captions.

    Classes are the sorted labels of the whole training manifest, whatever ``where`` and ``clip`` leave out, so that class ids are the
    same in every training stage. Held-out clips come from the middle of their files; validation and test use the same.

    Every file without an "end" is opened once at the start to measure its length, about a thousand per second on a local disk. Give
    "end" in manifests of millions of lines.

    Args:
        clip: Number, rate and size of the frames. Images are used only if it has one frame.
        manifest: Path of the .jsonl file or folder of training clips.
        val_manifest: The same for held-out clips. Without one, ``held_out_fraction`` of the training manifest is held out.
        held_out_fraction: Fraction of the files to hold out, chosen by a hash of the listed path, so that added or removed lines move no
            others and no file is in both splits; at least one file, or none at 0.
        where: Values that a line must have to be used, such as ``{"kind": "clip", "checked": true}``; also for ``val_manifest``.
        views: Temporal and spatial crops of training clips; by default the same on every visit.
        broken_limit: Largest fraction of files that may be unreadable; they are replaced, and listed in ``broken_files.jsonl`` in the
            folder of the run.
        time_limit: Seconds that decoding a clip may take, checked between packets; a file that takes longer is unreadable.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order and the crops.
        milestones: Size of training clips before a step, by the step.

    Raises:
        ValueError: If a fraction is outside 0..1.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        manifest: str,
        val_manifest: str | None = None,
        held_out_fraction: float = 0.05,
        where: dict[str, str | bool | int] | None = None,
        views: Views | None = None,
        broken_limit: float = 0.1,
        time_limit: float = 60.0,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
        milestones: dict[int, StageOverride] | None = None,
    ) -> None:
        limits = {"broken_limit": broken_limit, "time_limit": time_limit}
        super().__init__(clip, views=views, batch_size=batch_size, workers=workers, seed=seed, milestones=milestones, **limits)
        if not 0 <= held_out_fraction < 1:
            raise ValueError(f"held_out_fraction must be at least 0 and below 1, got {held_out_fraction}")
        self.manifest, self.val_manifest, self.held_out_fraction, self.where = manifest, val_manifest, held_out_fraction, where or {}

    @property
    def captions(self) -> list[str]:
        """Distinct captions of the training lines that match ``where``, sorted."""
        return sorted({record.caption for record in self._records if record.caption and record.matches(self.where)})

    def labels(self) -> list[str | int]:
        return sorted({record.label for record in self._records if record.label is not None})  # type: ignore[type-var]

    def train_records(self, clip: Clip) -> list[ClipRecord]:
        if self.val_manifest is not None:
            return fitting_records(self._measured, clip)
        train, held = self._split
        if clip == self.clip:
            return train
        paths = {record.listed_path for record in held}
        return [record for record in fitting_records(self._measured, clip) if record.listed_path not in paths]

    def held_out_records(self) -> list[ClipRecord]:
        if self.val_manifest is None:
            return self._split[1]
        return fitting_records(self._measure(read_records(self.val_manifest)), self.clip)

    @cached_property
    def _split(self) -> tuple[list[ClipRecord], list[ClipRecord]]:
        return hold_out(fitting_records(self._measured, self.clip), self.held_out_fraction)

    @cached_property
    def _records(self) -> list[ClipRecord]:
        return read_records(self.manifest)

    @cached_property
    def _measured(self) -> list[ClipRecord]:
        return self._measure(self._records)

    def _measure(self, records: list[ClipRecord]) -> list[ClipRecord]:
        chosen = [record for record in records if record.matches(self.where)]
        if not chosen:
            raise ValueError(f"none of the {len(records)} clips from {records[0].location} on has {self.where}")
        return measured_records(chosen, self.policy)


def hold_out(records: list[ClipRecord], fraction: float) -> tuple[list[ClipRecord], list[ClipRecord]]:
    """Split records into training and held-out ones by a hash of the path.

    Raises:
        ValueError: If no training record is left.
    """
    if fraction == 0:
        return records, []
    # The first 8 bytes of the hash as a number in 0..1.
    positions = [int.from_bytes(hashlib.sha256(record.listed_path.encode()).digest()[:8]) / 2**64 for record in records]
    bound = max(fraction, min(positions))
    train = [record for record, position in zip(records, positions, strict=True) if position > bound]
    held = [record for record, position in zip(records, positions, strict=True) if position <= bound]
    if not train:
        raise ValueError(f"holding out {fraction:g} of {len(records)} clips leaves none to train on; give a val_manifest or more files")
    return train, held
