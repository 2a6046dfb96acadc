"""The clips of a manifest: which rows can give one, and how a row becomes one."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.broken import BrokenFiles, Tolerance, check_share, read_guarded, report_all, stand_ins
from datamodules.manifest import Row
from datamodules.reader import UnreadableVideo, is_picture, probe, read_clip
from datamodules.transforms import CENTRE, Framing
from modules.geometry import Clip

# Opening a file waits for the disc more than it computes.
THREADS = 8

# Every thread needs a helper process; for fewer rows it is not worth its start.
ROWS_PER_THREAD = 50


def centre_view(index: int) -> tuple[float, Framing]:
    """The middle of a clip, in time and on the screen."""
    return 0.5, CENTRE


def random_view(seed: int, flip: bool, index: int) -> tuple[float, Framing]:
    """Where a training clip starts, 0..1 of the possible times, and what it shows; a pure function of the arguments."""
    chance = random.Random(f"{seed}/{index}")
    return chance.random(), Framing.draw(chance, flip)


class FolderClips(Dataset):
    """One split of a manifest.

    A row that turns out unreadable is reported once, and its place is taken by another row that can be read, with that row's index: always
    the same one, whatever happened before.

    Args:
        rows: Rows that ``usable_rows`` returned.
        clip: What a clip measures.
        class_ids: Class id of every label.
        view: Maps an index to the start of the clip, 0..1 of the possible times, and to what it shows.
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
        view: Callable[[int], tuple[float, Framing]] = centre_view,
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
        if not 0 <= index < len(self):
            raise IndexError(f"there are the clips 0..{len(self) - 1}, got {index}")
        for candidate in chain([index], stand_ins(index, len(self))):
            video = self._read(candidate)
            if video is not None:
                row = self.rows[candidate]
                label = -1 if row.label is None else self.class_ids[row.label]
                return {"video": video, "label": label, "caption": row.caption, "index": candidate}
        raise ValueError(f"none of the {len(self)} rows can be read")

    def _read(self, index: int) -> Tensor | None:
        row, (moment, framing) = self.rows[index], self.view(index)
        return self.broken.read(index, row, read_clip, self.clip, _start(row, self.clip, moment), framing)


def usable_rows(rows: list[Row], clip: Clip, tolerance: Tolerance = Tolerance()) -> list[Row]:  # noqa: B008 (frozen)
    """The rows that are long enough for a clip, each with its end; how many are left out and why is logged.

    A file is opened to ask for its length, which takes about a millisecond on a local disc, unless its row has an "end".

    Args:
        rows: Rows of one manifest.
        clip: What a clip measures. Pictures are clips of one frame and left out of longer ones.
        tolerance: What is done about files that cannot be opened.

    Raises:
        ValueError: If a file is missing, too many are unreadable or no row is left.
    """
    for row in rows:
        if not os.path.lexists(row.path):
            raise ValueError(f"{row.place}: there is no file {row.path}")
    shown = [row for row in rows if clip.frames == 1 or not is_picture(row.path)]
    with ThreadPoolExecutor(min(THREADS, 1 + len(shown) // ROWS_PER_THREAD)) as pool:
        outcomes = list(pool.map(partial(_measure, tolerance.seconds), shown))
    measured = [row for row in outcomes if isinstance(row, Row)]
    unreadable = [error for error in outcomes if isinstance(error, UnreadableVideo)]
    report_all([row for row, error in zip(shown, outcomes, strict=True) if error in unreadable], unreadable, tolerance)
    span = (clip.frames - 1) / clip.fps
    used = [row for row in measured if row.end is None or row.end - row.start > span]
    pictures, short = len(rows) - len(shown), len(measured) - len(used)
    needed = f"{clip.frames} frames at {clip.fps:g} fps need more than {span:g} s"
    left_out = f"{pictures} pictures, {len(unreadable)} unreadable, {short} too short ({needed})"
    if unreadable:
        check_share(len(unreadable), len(rows), tolerance.limit, f"the first is {unreadable[0]}")
    if not used:
        raise ValueError(f"none of the {len(rows)} rows from {rows[0].place} on gives a clip: {left_out}")
    if len(used) < len(rows):
        rank_zero_info(f"{len(used)} of the {len(rows)} rows from {rows[0].place} on are used; left out: {left_out}")
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
