"""Own videos and pictures, listed in a manifest or sorted into a folder per class."""

from __future__ import annotations

import hashlib
from functools import cached_property

from datamodules.base import StageOverride
from datamodules.clips.base import FileClips
from datamodules.clips.class_folders import read_rows
from datamodules.clips.cropping import Views
from datamodules.clips.dataset import fitting_rows, measured_rows
from datamodules.clips.manifest import Row
from modules.geometry import Clip


class VideoFolder(FileClips):
    """Clips from video and picture files, by a .jsonl manifest with a line per clip, or by a folder with a folder of files per class.

    A line is ``{"path": "a/b.mp4", "caption": "a text", "label": "a class"}``. "path" is relative to the manifest or absolute; "caption"
    and "label" (a name or a whole number) are optional, and so are "start" and "end" in seconds. Further keys are for ``where``. In
    ``<folder>/<class>/<file>`` the label is the class; there are no captions.

    Classes are the sorted labels of the whole training manifest, whatever ``where`` and ``clip`` leave out, so that class ids are the
    same in every stage of a training. Held-out clips are cut from the middle; validation and test use the same.

    Every file without an "end" is opened once at the start to ask for its length, about a thousand a second from a local disc. Give
    "end" in manifests of millions of rows.

    Args:
        clip: What a clip measures. Pictures are used if it has one frame, and left out if it has more.
        manifest: Path of the .jsonl file or the folder to train on.
        val_manifest: The same of held-out clips. Without one, ``held_out_fraction`` of the training manifest is held out.
        held_out_fraction: Share of the files to hold out, chosen by a hash of their path as written, so that rows that come or go move no
            others and no file is on both sides; at least one file, or none at 0.
        where: Values that a row must have to be used, such as ``{"kind": "clip", "checked": true}``; also for ``val_manifest``.
        views: What a training clip shows of its file, in time and on the screen; the same at every visit if not given.
        broken_limit: Largest share of files that may be unreadable; those within it are replaced, and listed in ``broken_files.jsonl`` in
            the run's folder.
        time_limit: Seconds that reading a clip may take; a file that takes longer is unreadable.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order and the views.
        milestones: What training clips measure before a step, by the step.

    Raises:
        ValueError: If a share is outside 0..1.
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
        patience = {"broken_limit": broken_limit, "time_limit": time_limit}
        super().__init__(clip, views=views, batch_size=batch_size, workers=workers, seed=seed, milestones=milestones, **patience)
        if not 0 <= held_out_fraction < 1:
            raise ValueError(f"held_out_fraction must be at least 0 and below 1, got {held_out_fraction}")
        self.manifest, self.val_manifest, self.held_out_fraction, self.where = manifest, val_manifest, held_out_fraction, where or {}

    @property
    def captions(self) -> list[str]:
        """Every caption of the training manifest once, sorted; those of rows that ``where`` leaves out are not among them."""
        return sorted({row.caption for row in self._rows if row.caption and row.has(self.where)})

    def labels(self) -> list[str | int]:
        return sorted({row.label for row in self._rows if row.label is not None})  # type: ignore[type-var]

    def train_rows(self, clip: Clip) -> list[Row]:
        if self.val_manifest is not None:
            return fitting_rows(self._measured, clip)
        train, held = self._split
        if clip == self.clip:
            return train
        written = {row.written for row in held}
        return [row for row in fitting_rows(self._measured, clip) if row.written not in written]

    def held_out_rows(self) -> list[Row]:
        if self.val_manifest is None:
            return self._split[1]
        return fitting_rows(self._measure(read_rows(self.val_manifest)), self.clip)

    @cached_property
    def _split(self) -> tuple[list[Row], list[Row]]:
        return hold_out(fitting_rows(self._measured, self.clip), self.held_out_fraction)

    @cached_property
    def _rows(self) -> list[Row]:
        return read_rows(self.manifest)

    @cached_property
    def _measured(self) -> list[Row]:
        return self._measure(self._rows)

    def _measure(self, rows: list[Row]) -> list[Row]:
        chosen = [row for row in rows if row.has(self.where)]
        if not chosen:
            raise ValueError(f"none of the {len(rows)} rows from {rows[0].place} on has {self.where}")
        return measured_rows(chosen, self.tolerance)


def hold_out(rows: list[Row], share: float) -> tuple[list[Row], list[Row]]:
    """Splits rows into those to train on and those held out, by a hash of the path.

    Raises:
        ValueError: If this leaves nothing to train on.
    """
    if share == 0:
        return rows, []
    # The first 8 bytes of the hash as a number in 0..1.
    spots = [int.from_bytes(hashlib.sha256(row.written.encode()).digest()[:8]) / 2**64 for row in rows]
    bound = max(share, min(spots))
    train = [row for row, spot in zip(rows, spots, strict=True) if spot > bound]
    held = [row for row, spot in zip(rows, spots, strict=True) if spot <= bound]
    if not train:
        raise ValueError(f"holding out {share:g} of {len(rows)} rows leaves none to train on; give a val_manifest or more files")
    return train, held
