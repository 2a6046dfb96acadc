"""Unreadable files: each is reported once, another clip replaces it, and too many of them end the run."""

from __future__ import annotations

import fcntl
import json
import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from datamodules.clips.manifest import ClipRecord
from datamodules.decoding.frames import UnreadableVideo

logger = logging.getLogger(__name__)

# Reads of a process after which failures of twice the limit end the run: in a large dataset, reaching the limit itself would take days.
MIN_ATTEMPTS = 200


@dataclass(frozen=True)
class UnreadablePolicy:
    """Handling of unreadable files.

    Args:
        limit: Largest fraction of the clips that may be unreadable.
        time_limit: Seconds that decoding one file may take.
        report: A .jsonl file that lists them, shared by all processes of a run; they are only logged if None.
    """

    limit: float = 0.1
    time_limit: float = 60.0
    report: Path | None = None


class BrokenFileReport:
    """Clips found unreadable, one JSON object per line; all processes of a run append to one file.

    Args:
        path: The file, created with its folder by the first entry. Without one, entries are kept in this process only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.locations: set[str] = set()
        self._offset = 0

    def add(self, record: ClipRecord, error: UnreadableVideo) -> bool:
        """Add a clip and return whether it was new; ``locations`` then holds what any process has added."""
        if self.path is None:
            new = record.location not in self.locations
            self.locations.add(record.location)
            return new
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(self._offset)
            self.locations |= {json.loads(line)["row"] for line in file}
            new = record.location not in self.locations
            if new:
                self.locations.add(record.location)
                file.write(json.dumps({"row": record.location, "path": record.listed_path, "reason": str(error)}).encode() + b"\n")
            self._offset = file.tell()
        return new


class ReadAttempts:
    """Successful and failed reads of one dataset in this process.

    The number of unreadable clips comes from the report, which all processes share; the number of attempts is that of this process.

    Args:
        records: All clips of the dataset.
        policy: Limits and report.
    """

    def __init__(self, records: Sequence[ClipRecord], policy: UnreadablePolicy) -> None:
        self.records, self.policy = records, policy
        self.report = BrokenFileReport(policy.report)
        self.attempts = self.failures = 0

    @property
    def broken(self) -> int:
        """Number of clips of the dataset that are known to be unreadable."""
        return len(self.report.locations & self._locations)

    def succeeded(self) -> None:
        self.attempts += 1

    def failed(self, record: ClipRecord, error: UnreadableVideo) -> None:
        """Report a failed read.

        Raises:
            ValueError: If too many clips are unreadable.
        """
        self.attempts += 1
        self.failures += 1
        new = self.report.add(record, error)
        broken, total, limit = self.broken, len(self.records), self.policy.limit
        if new:
            logger.warning("%s: left out: %s (%d of %d so far)", record.location, error, broken, total)
        check_fraction(broken, total, limit, f"{record.location}: {error}")
        if self.attempts >= MIN_ATTEMPTS and self.failures > 2 * limit * self.attempts:
            raise ValueError(
                f"{self.failures} of the first {self.attempts} clips cannot be read, more than twice the broken_limit of {limit:g}; "
                f"{record.location}: {error}"
            )

    @cached_property
    def _locations(self) -> set[str]:
        return {record.location for record in self.records}


@rank_zero_only
def report_all(broken: list[tuple[ClipRecord, UnreadableVideo]], policy: UnreadablePolicy) -> None:
    """Report clips that every process of a run has found unreadable, from rank 0."""
    report = BrokenFileReport(policy.report)
    for number, (record, error) in enumerate(broken, start=1):
        if report.add(record, error):
            logger.warning("%s: left out: %s (%d of %d that cannot be opened)", record.location, error, number, len(broken))


def replacements(index: int, visit: int, total: int) -> Iterator[int]:
    """Yield all other indices in a pseudo-random order that depends only on the arguments.

    If the next clip always replaced an unreadable one, the clip after a run of a hundred unreadable ones would be seen a hundred times as
    often as others.
    """
    generator = random.Random(f"stand-ins/{index}/{visit}/{total}")
    first, stride = generator.randrange(total), generator.randrange(1, total + 1)
    while gcd(stride, total) > 1:
        stride = generator.randrange(1, total + 1)
    candidates = ((first + number * stride) % total for number in range(total))
    yield from (candidate for candidate in candidates if candidate != index)


def check_fraction(broken: int, total: int, limit: float, details: str) -> None:
    """Raise ``ValueError`` if more than ``limit`` of the clips are unreadable."""
    if broken > limit * total:
        raise ValueError(f"{broken} of {total} clips are unreadable, more than the broken_limit of {limit:g}; {details}")
