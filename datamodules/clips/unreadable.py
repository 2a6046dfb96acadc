"""Files that cannot be read: each is reported once, another takes its place, and too many of them end the run."""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_only

from datamodules.clips.manifest import Row
from datamodules.decoding.frames import UnreadableVideo
from datamodules.decoding.subprocess_guard import Stopped, within

logger = logging.getLogger(__name__)

# From so many attempts on, failures of twice the limit are proof enough: of a large set the limit itself would take days to reach.
ATTEMPTS = 200

Result = TypeVar("Result")


@dataclass(frozen=True)
class Tolerance:
    """What is done about files that cannot be read.

    Args:
        limit: Largest share of the rows that may be broken.
        seconds: Time that reading one may take.
        report: A .jsonl file to list them in, one for all processes of a run; they are only logged if None.
    """

    limit: float = 0.1
    seconds: float = 60.0
    report: Path | None = None


class BrokenFiles:
    """Which rows of a data set cannot be read, known to all workers of its loaders.

    A row that failed is tried again when its turn comes again, as other parts of its file may be whole. So what is served never depends
    on what happened before, and a resumed run sees the same clips. Only a file that hung or crashed its reader is not opened again.

    Args:
        total: Number of rows.
        tolerance: What is done about them.
    """

    def __init__(self, total: int, tolerance: Tolerance) -> None:
        self.total, self.tolerance = total, tolerance
        self._report = Report(tolerance.report)
        self._broken, self._stuck = (torch.zeros(total, dtype=torch.bool).share_memory_() for _ in range(2))
        self._attempts, self._failures = torch.zeros(2, dtype=torch.int64).share_memory_().split(1)
        self._lock = multiprocessing.Lock()

    @property
    def count(self) -> int:
        """Number of rows that are known to be broken."""
        return int(self._broken.sum())

    def read(self, index: int, row: Row, function: Callable[..., Result], *arguments: object) -> Result | None:
        """``function(row.path, *arguments)`` in a helper process; None if the file cannot be read.

        Raises:
            ValueError: If too many files cannot.
        """
        if self._stuck[index]:
            return None
        try:
            result = read_guarded(self.tolerance.seconds, function, row.path, *arguments)
        except UnreadableVideo as error:
            with self._lock:
                self._note(index, row, error)
            return None
        self._attempts += 1
        return result

    def _note(self, index: int, row: Row, error: UnreadableVideo) -> None:
        self._attempts += 1
        self._failures += 1
        if isinstance(error.__cause__, Stopped):
            self._stuck[index] = True
        if not self._broken[index]:
            self._broken[index] = True
            self._report.add(row, error, f"{self.count} of {self.total} so far")
        check_share(self.count, self.total, self.tolerance.limit, f"{row.place}: {error}")
        failures, attempts = int(self._failures), int(self._attempts)
        if attempts >= ATTEMPTS and failures > 2 * self.tolerance.limit * attempts:
            limit = f"more than twice the broken_limit of {self.tolerance.limit:g}"
            raise ValueError(f"{failures} of the first {attempts} clips cannot be read, {limit}; {row.place}: {error}")


class Report:
    """Logs broken rows and lists them on disc, one JSON object per line; all processes of a run add to one list.

    Args:
        path: The list, which is made with its folder when there is something to report. Without one, all is logged.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: set[str] = set()
        self._read = 0

    def add(self, row: Row, error: UnreadableVideo, count: str) -> None:
        """Reports a row, unless that was done before."""
        if self._is_new(row, error):
            logger.warning("%s: left out: %s (%s)", row.place, error, count)

    def _is_new(self, row: Row, error: UnreadableVideo) -> bool:
        if self.path is None:
            return True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            file.seek(self._read)
            lines = file.readlines()
            self._read += sum(map(len, lines))
            self._known |= {json.loads(line)["row"] for line in lines}
            if row.place in self._known:
                return False
            # One write at the end of a file: lines of several processes do not mix.
            line = json.dumps({"row": row.place, "path": row.written, "reason": str(error)})
            file.write(f"{line}\n".encode())
        return True


@rank_zero_only
def report_all(broken: list[tuple[Row, UnreadableVideo]], tolerance: Tolerance) -> None:
    """Reports rows that all processes of a run have found broken, from the first of them."""
    report = Report(tolerance.report)
    for number, (row, error) in enumerate(broken, start=1):
        report.add(row, error, f"{number} of {len(broken)} that cannot be opened")


def read_guarded(seconds: float, function: Callable[..., Result], path: Path, *arguments: object) -> Result:
    """``function(path, *arguments)`` in a helper process.

    Raises:
        UnreadableVideo: If the file cannot be read, takes longer than ``seconds`` or crashes its decoder.
    """
    try:
        return within(seconds, function, path, *arguments)
    except Stopped as error:
        raise UnreadableVideo(f"{path}: {error}") from error


def stand_ins(index: int, visit: int, total: int) -> Iterator[int]:
    """All other rows, in an order that depends on nothing but the numbers given, and is another one for every row and visit.

    With the next row in its place, one whole file after a hundred broken ones would be seen a hundred times as often as others.
    """
    chance = random.Random(f"stand-ins/{index}/{visit}/{total}")
    first, stride = chance.randrange(total), chance.randrange(1, total + 1)
    while gcd(stride, total) > 1:
        stride = chance.randrange(1, total + 1)
    places = ((first + number * stride) % total for number in range(total))
    yield from (place for place in places if place != index)


def check_share(broken: int, rows: int, limit: float, details: str) -> None:
    """Raises ``ValueError`` if more than ``limit`` of the rows are broken."""
    if broken > limit * rows:
        raise ValueError(f"{broken} of {rows} rows are unreadable, more than the broken_limit of {limit:g}; {details}")
