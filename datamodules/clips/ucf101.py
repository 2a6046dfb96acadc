"""UCF-101: 101 classes of human actions in a folder each, with official lists of the splits.

Soomro, Zamir and Shah, 2012. The archive ``UCF101.rar`` unpacks to ``root``, ``UCF101TrainTestSplits-RecognitionTask.zip`` to ``lists``.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from datamodules.base import StageOverride
from datamodules.clips.base import FileClips
from datamodules.clips.cropping import Views
from datamodules.clips.dataset import fitting_records, measured_records
from datamodules.clips.manifest import ClipRecord
from datamodules.jsonl import read_lines
from modules.geometry import Clip


class UCF101(FileClips):
    """Clips from UCF-101 in one of its three official splits: 9.5 thousand training videos and 3.8 thousand held out.

    Args:
        root: Folder of the class folders, ``<class>/v_<class>_g<group>_c<clip>.avi``.
        lists: Folder of ``classInd.txt``, ``trainlist01.txt``, ``testlist01.txt`` and their siblings.
        clip: Number, rate and size of the frames.
        split: Number of the split, 1 to 3.
        views: Temporal and spatial crops of training clips; by default the same on every visit.
        broken_limit: Largest fraction of files that may be unreadable; they are listed and replaced.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order and the crops.
        milestones: Size of training clips before a step, by the step.

    Raises:
        ValueError: If ``split`` is not 1, 2 or 3.
    """

    def __init__(
        self,
        root: str,
        lists: str,
        *,
        clip: Clip = Clip(17, 128, 128),  # noqa: B008 (frozen)
        split: int = 1,
        views: Views | None = None,
        broken_limit: float = 0.01,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
        milestones: dict[int, StageOverride] | None = None,
    ) -> None:
        super().__init__(
            clip, views=views, broken_limit=broken_limit, batch_size=batch_size, workers=workers, seed=seed, milestones=milestones
        )
        if split not in (1, 2, 3):
            raise ValueError(f"UCF-101 has the splits 1, 2 and 3, got {split}")
        self.root, self.lists, self.split = Path(root).expanduser(), Path(lists).expanduser(), split

    def labels(self) -> list[str | int]:
        """Return the classes in the order of ``classInd.txt``."""
        return list(self._classes)

    def train_records(self, clip: Clip) -> list[ClipRecord]:
        return fitting_records(self._measured, clip)

    def held_out_records(self) -> list[ClipRecord]:
        return fitting_records(measured_records(self._listed("testlist"), self.policy), self.clip)

    @cached_property
    def _measured(self) -> list[ClipRecord]:
        return measured_records(self._listed("trainlist"), self.policy)

    @cached_property
    def _classes(self) -> dict[str, int]:
        """Class numbers from ``classInd.txt``."""
        numbers: dict[str, int] = {}
        for location, line in read_lines(self.lists / "classInd.txt"):
            number, _, name = line.partition(" ")
            if number != str(len(numbers) + 1) or not name or name in numbers:
                raise ValueError(f'{location}: expected "{len(numbers) + 1} <another class>", got "{line}"')
            numbers[name] = len(numbers) + 1
        if not numbers:
            raise ValueError(f"{self.lists / 'classInd.txt'} names no classes")
        return numbers

    def _listed(self, name: str) -> list[ClipRecord]:
        """Return the records of a list; training lists give the class number after every path."""
        file = self.lists / f"{name}{self.split:02d}.txt"
        records = [self._record(location, *line.split()) for location, line in read_lines(file)]
        if not records:
            raise ValueError(f"{file} lists no videos")
        return records

    def _record(self, location: str, listed_path: str, number: str = "", *more: str) -> ClipRecord:
        label, _, _ = listed_path.partition("/")
        if more or label not in self._classes or number not in ("", str(self._classes[label])):
            words = " ".join((listed_path, number, *more)).strip()
            raise ValueError(f'{location}: expected "<class>/<video>" and optionally the class number, as in classInd.txt, got "{words}"')
        return ClipRecord(self.root / listed_path, listed_path, location, caption="", label=label, start=0.0, end=None, values={})
