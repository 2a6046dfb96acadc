"""Which clips a step takes: pure functions of a seed and of how much was consumed."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch

# 2 ** 64 over the golden ratio. Its multiples, modulo 2 ** 64, lie as evenly as those of any number can, however many there are.
GOLDEN = 0x9E3779B97F4A7C15


class Order:
    """A row of permutations of ``length`` clips without an end, permutation ``e`` drawn from ``(seed, e)``.

    Args:
        length: Number of clips.
        seed: Seed of all permutations.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        self._known: tuple[int, list[int]] = (-1, [])

    def take(self, first: int, count: int) -> list[tuple[int, int]]:
        """The clips at the places ``first`` to ``first + count - 1`` of the row, each with how often it came before."""
        places = (divmod(place, self.length) for place in range(first, first + count))
        return [(self._permutation(visit)[spot], visit) for visit, spot in places]

    def _permutation(self, epoch: int) -> list[int]:
        if self._known[0] != epoch:
            # A text mixes the two numbers, so that (0, 1) and (1, 0) differ.
            generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{epoch}").getrandbits(32))
            self._known = (epoch, torch.randperm(self.length, generator=generator).tolist())
        return self._known[1]


def turn(step: int, shares: Sequence[float], seed: int) -> int:
    """Whose turn a step is, among several with a share of the steps each.

    Turns alternate without a period and as evenly as they can: after any number of steps each has had its share to within a few steps.

    Args:
        step: Number of the step, from 0.
        shares: Share of each; their sum is anything positive. One without a share has no turn.
        seed: Where the row of turns begins.
    """
    start = random.Random(f"turns/{seed}").getrandbits(64)
    ends = list(accumulate(shares))
    spot = (start + step * GOLDEN) % 2**64 / 2**64
    # A sum rounded up could come to lie on the last end.
    return bisect_right(ends, spot * ends[-1], hi=len(ends) - 1)
