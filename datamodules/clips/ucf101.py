"""UCF-101: 101 classes of human actions in a folder each, and the lists that say which videos are for training.

Soomro, Zamir and Shah, 2012. The archive ``UCF101.rar`` unpacks to ``root``, ``UCF101TrainTestSplits-RecognitionTask.zip`` to ``lists``.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from datamodules.base import StageOverride
from datamodules.clips.base import FileClips
from datamodules.clips.cropping import Views
from datamodules.clips.dataset import fitting_rows, measured_rows
from datamodules.clips.manifest import Row
from datamodules.jsonl import read_lines
from modules.geometry import Clip


class UCF101(FileClips):
    """Clips from UCF-101 by its official lists: one of three splits into 9.5 thousand videos to train on and 3.8 thousand held out.

    Args:
        root: Folder of the classes' folders, ``<class>/v_<class>_g<group>_c<clip>.avi``.
        lists: Folder of ``classInd.txt``, ``trainlist01.txt``, ``testlist01.txt`` and their siblings.
        clip: What a clip measures.
        split: Which of the lists, 1 to 3.
        views: What a training clip shows of its file, in time and on the screen; the same at every visit if not given.
        broken_limit: Largest share of files that may be unreadable; those within it are listed and replaced.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order and the views.
        milestones: What training clips measure before a step, by the step.

    Raises:
        ValueError: If ``split`` is none of 1, 2, 3.
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
        """The classes in the order of ``classInd.txt``."""
        return list(self._classes)

    def train_rows(self, clip: Clip) -> list[Row]:
        return fitting_rows(self._measured, clip)

    def held_out_rows(self) -> list[Row]:
        return fitting_rows(measured_rows(self._listed("testlist"), self.tolerance), self.clip)

    @cached_property
    def _measured(self) -> list[Row]:
        return measured_rows(self._listed("trainlist"), self.tolerance)

    @cached_property
    def _classes(self) -> dict[str, int]:
        """The number that ``classInd.txt`` gives to every class."""
        numbers: dict[str, int] = {}
        for place, line in read_lines(self.lists / "classInd.txt"):
            number, _, name = line.partition(" ")
            if number != str(len(numbers) + 1) or not name or name in numbers:
                raise ValueError(f'{place}: expected "{len(numbers) + 1} <another class>", got "{line}"')
            numbers[name] = len(numbers) + 1
        if not numbers:
            raise ValueError(f"{self.lists / 'classInd.txt'} names no classes")
        return numbers

    def _listed(self, name: str) -> list[Row]:
        """The videos of a list; a training list gives the class's number after every path."""
        file = self.lists / f"{name}{self.split:02d}.txt"
        rows = [self._row(place, *line.split()) for place, line in read_lines(file)]
        if not rows:
            raise ValueError(f"{file} lists no videos")
        return rows

    def _row(self, place: str, written: str, number: str = "", *more: str) -> Row:
        label, _, _ = written.partition("/")
        if more or label not in self._classes or number not in ("", str(self._classes[label])):
            words = " ".join((written, number, *more)).strip()
            raise ValueError(f'{place}: expected "<class>/<video>" and maybe the class\'s number, as in classInd.txt, got "{words}"')
        return Row(self.root / written, written, place, caption="", label=label, start=0.0, end=None, values={})
