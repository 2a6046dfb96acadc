"""The clips of a manifest: which rows can give one, and how a row becomes one."""

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

from datamodules.clips.cropping import View, centre_view
from datamodules.clips.manifest import Row
from datamodules.clips.unreadable import BrokenFiles, Tolerance, check_share, read_guarded, report_all, stand_ins
from datamodules.decoding.reader import UnreadableVideo, is_picture, probe, read_clip
from modules.geometry import Clip

# Opening a file waits for the disc more than it computes.
THREADS = 8

# Every thread needs a helper process; for fewer rows it is not worth its start.
ROWS_PER_THREAD = 50


class FolderClips(Dataset):
    """One split of a manifest.

    A row that turns out unreadable is reported once, and its place is taken by another row that can be read, with that row's index: by the
    same one in every run, whatever happened before.

    Args:
        rows: Rows that ``usable_rows`` returned.
        clip: What a clip measures.
        class_ids: Class id of every label.
        view: Maps a row, its index and how often it came before to what the clip shows.
        tolerance: What is done about rows that turn out unreadable.

    Raises:
        ValueError: If a label has no class id. On access: if more rows than tolerated are unreadable.
    """

    def __init__(
        self,
        rows: list[Row],
        clip: Clip,
        class_ids: dict[str | int, int],
        *,
        view: Callable[[Row, int, int], View] = centre_view,
        tolerance: Tolerance = Tolerance(),  # noqa: B008 (frozen)
    ) -> None:
        self.rows, self.clip, self.class_ids, self.view = rows, clip, class_ids, view
        for row in rows:
            if row.label is not None and row.label not in class_ids:
                raise ValueError(f"{row.place}: the training manifest has no label {row.label!r}")
        self.broken = BrokenFiles(len(rows), tolerance)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.at_visit(index, 0)

    def at_visit(self, index: int, visit: int) -> dict:
        """Clip ``index`` when it comes for the time ``visit``, counted from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"there are the clips 0..{len(self) - 1}, got {index}")
        for candidate in chain([index], stand_ins(index, visit, len(self))):
            video = self._read(candidate, visit)
            if video is not None:
                row = self.rows[candidate]
                label = -1 if row.label is None else self.class_ids[row.label]
                return {"video": video, "label": label, "caption": row.caption, "index": candidate}
        raise ValueError(f"none of the {len(self)} rows can be read")

    def _read(self, index: int, visit: int) -> Tensor | None:
        row = self.rows[index]
        moment, framing = self.view(row, index, visit)
        return self.broken.read(index, row, read_clip, self.clip, _start(row, self.clip, moment), framing)


def usable_rows(rows: list[Row], clip: Clip, tolerance: Tolerance = Tolerance()) -> list[Row]:  # noqa: B008 (frozen)
    """The rows that are long enough for a clip, each with its end: ``fitting_rows`` of ``measured_rows``."""
    return fitting_rows(measured_rows(rows, tolerance), clip)


def measured_rows(rows: list[Row], tolerance: Tolerance = Tolerance()) -> list[Row]:  # noqa: B008 (frozen)
    """The rows that can be opened, those of videos each with its end; what cannot is reported.

    A file is opened to ask for its length, which takes about a millisecond on a local disc, unless its row has an "end".

    Args:
        rows: Rows of one list.
        tolerance: What is done about files that cannot be opened.

    Raises:
        ValueError: If a file is missing or too many are unreadable.
    """
    for row in rows:
        if not os.path.lexists(row.path):
            raise ValueError(f"{row.place}: there is no file {row.path}")
    with ThreadPoolExecutor(min(THREADS, 1 + len(rows) // ROWS_PER_THREAD)) as pool:
        outcomes = list(pool.map(partial(_measure, tolerance.seconds), rows))
    unreadable = [(row, error) for row, error in zip(rows, outcomes, strict=True) if isinstance(error, UnreadableVideo)]
    if unreadable:
        report_all(unreadable, tolerance)
        (row, error), *_ = unreadable
        check_share(len(unreadable), len(rows), tolerance.limit, f"the first is {row.place}: {error}")
    return [row for row in outcomes if isinstance(row, Row)]


def fitting_rows(rows: list[Row], clip: Clip) -> list[Row]:
    """The rows that are long enough for a clip; how many are left out and why is logged.

    Args:
        rows: Rows of one list, those of videos with an end.
        clip: What a clip measures. Pictures are clips of one frame and left out of longer ones.

    Raises:
        ValueError: If no row is left.
    """
    shown = [row for row in rows if clip.frames == 1 or not is_picture(row.path)]
    span = (clip.frames - 1) / clip.fps
    used = [row for row in shown if row.end is None or row.end - row.start > span]
    needed = f"{clip.frames} frames at {clip.fps:g} fps need more than {span:g} s"
    left_out = f"{len(rows) - len(shown)} pictures, {len(shown) - len(used)} too short ({needed})"
    if not used:
        raise ValueError(f"none of the {len(rows)} readable rows from {rows[0].place} on gives a clip: {left_out}" if rows else "no rows")
    if len(used) < len(rows):
        rank_zero_info(f"{len(used)} of the {len(rows)} readable rows from {rows[0].place} on are used; left out: {left_out}")
    return used


def _measure(seconds: float, row: Row) -> Row | UnreadableVideo:
    """The row with its end; a picture has none. What is wrong, if the file cannot be opened."""
    if row.end is not None or is_picture(row.path):
        return row
    try:
        return replace(row, end=read_guarded(seconds, probe, row.path).seconds)
    except UnreadableVideo as error:
        return error


def _start(row: Row, clip: Clip, moment: float) -> float:
    """Start of a clip in seconds, ``moment`` 0..1 between the first and the last one that leaves all frames inside."""
    if row.end is None or is_picture(row.path):
        return 0.0
    return row.start + moment * max(0.0, row.end - row.start - clip.frames / clip.fps)
