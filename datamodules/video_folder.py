"""Own videos and pictures, listed in a manifest."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property, partial
from typing import Any

from datamodules.base import ClipDataModule
from datamodules.folder_clips import FolderClips, random_view, usable_rows
from datamodules.manifest import Row, read_manifest
from datamodules.transforms import RULE
from modules.geometry import Clip


class VideoFolder(ClipDataModule):
    """Clips from video and picture files, by a .jsonl manifest with a line per clip.

    A line is ``{"path": "a/b.mp4", "caption": "a text", "label": "a class"}``. "path" is relative to the manifest or absolute; "caption"
    and "label" (a name or a whole number) are optional, and so are "start" and "end" in seconds. Further keys are for ``where``.

    Classes are the sorted labels of the whole training manifest, whatever ``where`` and ``clip`` leave out, so that class ids are the
    same in every stage of a training. A training clip starts at a random time and shows a random part, both fixed by seed and index;
    held-out clips are cut from the middle. Validation and test use the same clips.

    Every file without an "end" is opened once at the start to ask for its length, about a thousand a second from a local disc. Give
    "end" in manifests of millions of rows.

    Args:
        clip: What a clip measures. Pictures are used if it has one frame, and left out if it has more.
        manifest: Path of the .jsonl file to train on.
        val_manifest: Path of the .jsonl file of held-out clips. Without one, ``held_out_share`` of the training manifest is held out.
        held_out_share: Share of the files to hold out, chosen by a hash of their path as written, so that rows that come or go move no
            others and no file is on both sides; at least one file, or none at 0.
        flip: Whether half of the training clips are mirrored. Not for data in which left and right, or letters, matter.
        where: Values that a row must have to be used, such as ``{"kind": "clip", "checked": true}``; also for ``val_manifest``.
        broken_limit: Largest share of files that may be unreadable; those within it are logged and replaced.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order, starts, crops and flips.

    Raises:
        ValueError: If a share is outside 0..1.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        manifest: str,
        val_manifest: str | None = None,
        held_out_share: float = 0.05,
        flip: bool = False,
        where: dict[str, str | bool | int] | None = None,
        broken_limit: float = 0.1,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size=batch_size, workers=workers, seed=seed)
        if not 0 <= held_out_share < 1 or not 0 <= broken_limit <= 1:
            raise ValueError(f"held_out_share and broken_limit must be within 0..1, got {held_out_share} and {broken_limit}")
        self.manifest, self.val_manifest, self.held_out_share = manifest, val_manifest, held_out_share
        self.flip, self.where, self.broken_limit = flip, where or {}, broken_limit

    def setup(self, stage: str) -> None:
        """Checks manifests and files; raises ``ValueError`` with file and line of what is wrong."""
        for split in {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            self.dataset(split)

    def dataset(self, split: str) -> FolderClips:
        """The clips of "train", "val" or "test"; the last two are the same."""
        return self._train if split == "train" else self._held_out_clips

    @property
    def class_names(self) -> list[str]:
        return [str(label) for label in self._class_ids]

    @property
    def captions(self) -> list[str]:
        """Every caption of the training manifest once, sorted; those of rows that ``where`` leaves out are not among them."""
        return sorted({row.caption for row in self._rows if row.caption and row.has(self.where)})

    @property
    def preprocessing(self) -> dict[str, Any]:
        rows = hashlib.sha256()
        for clips in (self._train, self._held_out_clips):
            for row in clips.rows:
                rows.update(json.dumps([row.written, row.start, row.end, row.label, row.caption]).encode())
        return {**super().preprocessing, "resize": RULE, "flip": self.flip, "rows": rows.hexdigest()}

    @cached_property
    def _train(self) -> FolderClips:
        rows, view = self._usable, partial(random_view, self.seed, self.flip)
        if self.val_manifest is None:
            rows, _ = hold_out(rows, self.held_out_share)
        return FolderClips(rows, self.clip, self._class_ids, view=view, broken_limit=self.broken_limit)

    @cached_property
    def _held_out_clips(self) -> FolderClips:
        if self.val_manifest is None:
            _, rows = hold_out(self._usable, self.held_out_share)
        else:
            rows = self._choose(read_manifest(self.val_manifest))
        return FolderClips(rows, self.clip, self._class_ids, broken_limit=self.broken_limit)

    @cached_property
    def _rows(self) -> list[Row]:
        return read_manifest(self.manifest)

    @cached_property
    def _usable(self) -> list[Row]:
        return self._choose(self._rows)

    @cached_property
    def _class_ids(self) -> dict[str | int, int]:
        labels = {row.label for row in self._rows if row.label is not None}
        return {label: number for number, label in enumerate(sorted(labels))}

    def _choose(self, rows: list[Row]) -> list[Row]:
        chosen = [row for row in rows if row.has(self.where)]
        if not chosen:
            raise ValueError(f"none of the {len(rows)} rows from {rows[0].place} on has {self.where}")
        return usable_rows(chosen, self.clip, self.broken_limit)


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
