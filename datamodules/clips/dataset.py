"""Dataset of the clips of a manifest, and the selection of the records that yield one."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.clips.cropping import ClipCrop, centre_crop
from datamodules.clips.manifest import ClipRecord
from datamodules.clips.unreadable import ReadAttempts, UnreadablePolicy, check_fraction, replacements, report_all
from datamodules.decoding.reader import UnreadableVideo, is_image, probe, read_clip
from modules.geometry import Clip

# Opening a file is bound by disk latency, not by computation.
THREADS = 8


class FolderClips(Dataset):
    """One split of a manifest.

    An unreadable clip is reported once and replaced by another one, which keeps its own index. It is tried again whenever it is due, as
    other parts of the file may be intact; so the served clips never depend on earlier failures, and a resumed run sees the same ones.

    Args:
        records: Records that ``usable_records`` returned.
        clip: Number, rate and size of the frames.
        class_ids: Class id of every label.
        crop: Maps a record, its index and its number of earlier visits to the crop of the file.
        policy: Handling of unreadable files.

    Raises:
        ValueError: If a label has no class id. On access: if too many clips are unreadable.
    """

    def __init__(
        self,
        records: list[ClipRecord],
        clip: Clip,
        class_ids: dict[str | int, int],
        *,
        crop: Callable[[ClipRecord, int, int], ClipCrop] = centre_crop,
        policy: UnreadablePolicy = UnreadablePolicy(),  # noqa: B008 (frozen)
    ) -> None:
        self.records, self.clip, self.class_ids, self.crop, self.policy = records, clip, class_ids, crop, policy
        for record in records:
            if record.label is not None and record.label not in class_ids:
                raise ValueError(f"{record.location}: the training manifest has no label {record.label!r}")
        self.reads = ReadAttempts(records, policy)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        return self.at_visit(index, 0)

    def at_visit(self, index: int, visit: int) -> dict:
        """Return clip ``index`` on its ``visit``-th occurrence, counted from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"index must be within 0..{len(self) - 1}, got {index}")
        for candidate in chain([index], replacements(index, visit, len(self))):
            video = self._read(candidate, visit)
            if video is not None:
                record = self.records[candidate]
                label = -1 if record.label is None else self.class_ids[record.label]
                return {"video": video, "label": label, "caption": record.caption, "index": candidate}
        raise ValueError(f"none of the {len(self)} clips can be read")

    def _read(self, index: int, visit: int) -> Tensor | None:
        record = self.records[index]
        start_fraction, framing = self.crop(record, index, visit)
        start = _start(record, self.clip, start_fraction)
        try:
            video = read_clip(record.path, self.clip, start, framing, time_limit=self.policy.time_limit)
        except UnreadableVideo as error:
            self.reads.failed(record, error)
            return None
        self.reads.succeeded()
        return video


def usable_records(records: list[ClipRecord], clip: Clip, policy: UnreadablePolicy = UnreadablePolicy()) -> list[ClipRecord]:  # noqa: B008 (frozen)
    """Return the records that are long enough for a clip: ``fitting_records`` of ``measured_records``."""
    return fitting_records(measured_records(records, policy), clip)


def measured_records(records: list[ClipRecord], policy: UnreadablePolicy = UnreadablePolicy()) -> list[ClipRecord]:  # noqa: B008 (frozen)
    """Return the records whose files can be opened, those of videos with their end; report the others.

    Measuring a file without an "end" takes about a millisecond on a local disk.

    Args:
        records: Records of one manifest.
        policy: Handling of files that cannot be opened.

    Raises:
        ValueError: If a file is missing or too many are unreadable.
    """
    for record in records:
        if not os.path.lexists(record.path):
            raise ValueError(f"{record.location}: there is no file {record.path}")
    with ThreadPoolExecutor(THREADS) as pool:
        outcomes = list(pool.map(partial(_measure, policy.time_limit), records))
    unreadable = [(record, error) for record, error in zip(records, outcomes, strict=True) if isinstance(error, UnreadableVideo)]
    if unreadable:
        report_all(unreadable, policy)
        record, error = unreadable[0]
        check_fraction(len(unreadable), len(records), policy.limit, f"the first is {record.location}: {error}")
    return [outcome for outcome in outcomes if isinstance(outcome, ClipRecord)]


def fitting_records(records: list[ClipRecord], clip: Clip) -> list[ClipRecord]:
    """Return the records that are long enough for a clip, and log how many are left out and why.

    Args:
        records: Records of one manifest, those of videos with an end.
        clip: Number, rate and size of the frames. Images are clips of one frame and left out of longer ones.

    Raises:
        ValueError: If no record is left.
    """
    if not records:
        raise ValueError("the manifest has no readable clips")
    candidates = [record for record in records if clip.frames == 1 or not is_image(record.path)]
    span = (clip.frames - 1) / clip.fps
    used = [record for record in candidates if record.end is None or record.end - record.start > span]
    needed = f"{clip.frames} frames at {clip.fps:g} fps need more than {span:g} s"
    left_out = f"{len(records) - len(candidates)} images, {len(candidates) - len(used)} too short ({needed})"
    listed = f"{len(records)} readable clips from {records[0].location} on"
    if not used:
        raise ValueError(f"none of the {listed} can be used: {left_out}")
    if len(used) < len(records):
        rank_zero_info(f"{len(used)} of the {listed} are used; left out: {left_out}")
    return used


def _measure(time_limit: float, record: ClipRecord) -> ClipRecord | UnreadableVideo:
    """Return the record with its end, or the error if the file cannot be opened; images have no end."""
    if record.end is not None or is_image(record.path):
        return record
    try:
        return replace(record, end=probe(record.path, time_limit).seconds)
    except UnreadableVideo as error:
        return error


def _start(record: ClipRecord, clip: Clip, start_fraction: float) -> float:
    """Return the start in seconds, ``start_fraction`` of the way from the first to the last start that leaves all frames inside."""
    if record.end is None or is_image(record.path):
        return 0.0
    return record.start + start_fraction * max(0.0, record.end - record.start - clip.frames / clip.fps)
