"""Order of sources and clips as pure functions of a seed and a position."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch

# 2 ** 64 divided by the golden ratio. Its multiples modulo 2 ** 64 form a low-discrepancy sequence.
GOLDEN = 0x9E3779B97F4A7C15


class Order:
    """Endless sequence of permutations of ``length`` clips; permutation ``e`` is drawn from ``(seed, e)``.

    Args:
        length: Number of clips.
        seed: Seed of all permutations.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        self._cached: tuple[int, list[int]] = (-1, [])

    def take(self, first: int, count: int) -> list[tuple[int, int]]:
        """Return ``count`` pairs ``(clip, visit)`` from position ``first``; ``visit`` counts earlier occurrences of the clip."""
        positions = (divmod(position, self.length) for position in range(first, first + count))
        return [(self._permutation(visit)[offset], visit) for visit, offset in positions]

    def _permutation(self, epoch: int) -> list[int]:
        if self._cached[0] != epoch:
            # Seeding with a string mixes the two numbers, so (0, 1) and (1, 0) differ.
            generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{epoch}").getrandbits(32))
            self._cached = (epoch, torch.randperm(self.length, generator=generator).tolist())
        return self._cached[1]


def choose_source(step: int, weights: Sequence[float], seed: int) -> int:
    """Return the index of the source that provides the batch of ``step``.

    The sequence has no period and is as even as possible: after any number of steps each source is within a few batches of its weight.

    Args:
        step: Step, counted from 0.
        weights: Weight of each source; the sum may be any positive number. A source of weight 0 is never chosen.
        seed: Seed of the sequence's starting point.
    """
    start = random.Random(f"turns/{seed}").getrandbits(64)
    bounds = list(accumulate(weights))
    point = (start + step * GOLDEN) % 2**64 / 2**64
    # Rounding could put the product on the last bound.
    return bisect_right(bounds, point * bounds[-1], hi=len(bounds) - 1)
