"""Which part of a file a clip shows, in time and on the screen."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import NamedTuple

from datamodules.clips.manifest import Row
from datamodules.decoding.transforms import CENTRE, Framing


class View(NamedTuple):
    """Where a clip starts, 0..1 of the possible times, and what it shows of every frame."""

    moment: float
    framing: Framing


def centre_view(row: Row, index: int, visit: int) -> View:
    """The middle of a file, in time and on the screen."""
    return View(0.5, CENTRE)


class Views(ABC):
    """Chooses at random what training clips show; a pure function of the seed, the clip and how often it came before.

    Args:
        flip: Whether half of the clips are mirrored: all, none, or those of the labels in a list. Not for clips in which left and right,
            or letters, matter.
    """

    changing: bool

    def __init__(self, flip: bool | list[int | str] = False) -> None:
        self.flip = flip

    def check(self, labels: Collection[int | str]) -> None:
        """Raises ``ValueError`` if ``flip`` names a label that there is not."""
        for label in [] if isinstance(self.flip, bool) else self.flip:
            if label not in labels:
                raise ValueError(f"views.flip names {label!r}, and there is no such label")

    def view(self, seed: int, row: Row, index: int, visit: int) -> View:
        """What clip ``index`` of a row shows when it comes for the time ``visit``, counted from 0."""
        chance = self._chance(seed, index, visit)
        flip = self.flip if isinstance(self.flip, bool) else row.label in self.flip
        return View(chance.random(), Framing.draw(chance, flip))

    @abstractmethod
    def _chance(self, seed: int, index: int, visit: int) -> random.Random:
        """Where the choices of a view come from."""


class FixedViews(Views):
    """A clip shows the same every time: what is encoded once can be kept."""

    changing = False

    def _chance(self, seed: int, index: int, visit: int) -> random.Random:
        return random.Random(f"{seed}/{index}")


class FreshViews(Views):
    """A clip begins at another time and shows another part every time that it comes around."""

    changing = True

    def _chance(self, seed: int, index: int, visit: int) -> random.Random:
        return random.Random(f"{seed}/{index}/{visit}")
