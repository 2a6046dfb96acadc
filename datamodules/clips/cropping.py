"""Temporal and spatial crops of training and held-out clips."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import NamedTuple

from datamodules.clips.manifest import ClipRecord
from datamodules.decoding.transforms import CENTRE, Framing


class ClipCrop(NamedTuple):
    """Start of a clip as a fraction 0..1 of the possible start times, and its spatial crop."""

    start_fraction: float
    framing: Framing


def centre_crop(record: ClipRecord, index: int, visit: int) -> ClipCrop:
    """Return the crop in the middle of the file, in time and space."""
    return ClipCrop(0.5, CENTRE)


class Views(ABC):
    """Random crops of training clips; a pure function of the seed, the clip and its number of earlier visits.

    Args:
        flip: Whether half of the clips are mirrored: all, none, or those with a label in the list. Not for clips with text, or in which
            left and right matter.
    """

    changing: bool

    def __init__(self, flip: bool | list[int | str] = False) -> None:
        self.flip = flip

    def check(self, labels: Collection[int | str]) -> None:
        """Raise ``ValueError`` if ``flip`` names an unknown label."""
        for label in [] if isinstance(self.flip, bool) else self.flip:
            if label not in labels:
                raise ValueError(f"views.flip names {label!r}, but there is no such label")

    def crop(self, seed: int, record: ClipRecord, index: int, visit: int) -> ClipCrop:
        """Return the crop of clip ``index`` on its ``visit``-th occurrence, counted from 0."""
        generator = self._generator(seed, index, visit)
        flip = self.flip if isinstance(self.flip, bool) else record.label in self.flip
        return ClipCrop(generator.random(), Framing.draw(generator, flip))

    @abstractmethod
    def _generator(self, seed: int, index: int, visit: int) -> random.Random:
        """Return the random generator of a crop."""


class FixedViews(Views):
    """The same crop of a clip on every visit, so that its latent can be cached."""

    changing = False

    def _generator(self, seed: int, index: int, visit: int) -> random.Random:
        return random.Random(f"{seed}/{index}")


class FreshViews(Views):
    """A new crop, in time and space, on every visit of a clip."""

    changing = True

    def _generator(self, seed: int, index: int, visit: int) -> random.Random:
        return random.Random(f"{seed}/{index}/{visit}")
