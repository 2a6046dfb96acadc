"""Infinity's published scale schedules, by aspect ratio, and the latent grids at which they end."""

from __future__ import annotations

Schedule = tuple[tuple[int, int], ...]

# Rows and columns of the scales for images that are 1, 1.25, 1.333, ... times as high as wide. A pixel budget uses the first 7, 10, 12
# or 13 scales: 0.06, 0.25, 0.6 or 1 million pixels at 16 pixels per token.
TALL = """
1,1 2,2 4,4 6,6 8,8 12,12 16,16 20,20 24,24 32,32 40,40 48,48 64,64
1,1 2,2 3,3 5,4 10,8 15,12 20,16 25,20 30,24 35,28 45,36 55,44 70,56
1,1 2,2 4,3 8,6 12,9 16,12 20,15 24,18 28,21 36,27 48,36 60,45 72,54
1,1 2,2 3,2 6,4 9,6 15,10 21,14 27,18 33,22 39,26 48,32 63,42 78,52
1,1 2,2 3,3 7,4 11,6 14,8 21,12 28,16 35,20 42,24 56,32 70,40 84,48
1,1 2,2 4,2 6,3 10,5 16,8 22,11 30,15 38,19 46,23 60,30 74,37 90,45
1,1 2,2 5,2 10,4 15,6 20,8 25,10 30,12 40,16 50,20 65,26 80,32 100,40
1,1 2,2 6,2 9,3 15,5 21,7 27,9 36,12 45,15 54,18 72,24 90,30 111,37
"""
BUDGETS = (7, 10, 12, 13)

# The paper's 30 steps for 5 latent frames of 8 x 8 mean 6 scales, which no published schedule has (our decision).
SMALL: Schedule = tuple((side, side) for side in (1, 2, 3, 4, 6, 8))


def published() -> dict[tuple[int, int], Schedule]:
    """Return the schedules by their final latent grid; a wide grid has the transposed schedule of the tall one."""
    tall = [_schedule(line)[:budget] for line in TALL.split("\n") if line for budget in BUDGETS]
    wide: list[Schedule] = [tuple((width, height) for height, width in schedule) for schedule in tall]
    return {schedule[-1]: schedule for schedule in (SMALL, *tall, *wide)}


def _schedule(line: str) -> Schedule:
    sizes = [size.split(",") for size in line.split()]
    return tuple((int(height), int(width)) for height, width in sizes)
