"""Sizes of clips by aspect ratio: which there are, which is nearest to a picture, and what is lost on the way to it."""

from __future__ import annotations

from functools import lru_cache

from modules.geometry import PUBLISHED, Clip

# Rows and columns.
Size = tuple[int, int]

# The published schedules are for tokens of so many pixels a side.
TOKEN = 16


def published_sizes(clip: Clip) -> list[Size]:
    """The sizes of the published pixel budget that a clip's own size belongs to, wide ones first.

    Raises:
        ValueError: If it belongs to none.
    """
    budgets: dict[int, list[Size]] = {}
    for (rows, columns), schedule in PUBLISHED.items():
        budgets.setdefault(len(schedule), []).append((rows * TOKEN, columns * TOKEN))
    for sizes in budgets.values():
        if (clip.height, clip.width) in sizes:
            return sorted(sizes, key=lambda size: size[0] / size[1])
    raise ValueError(f"{clip.height} x {clip.width} pixels are no published size, so say which sizes go with it")


@lru_cache(maxsize=4096)
def nearest_size(height: int, width: int, sizes: tuple[Size, ...]) -> Size:
    """The size from which the least of a picture is cut off; of equally good ones the first."""
    return min(sizes, key=lambda size: lost(height, width, size))


def lost(height: int, width: int, size: Size) -> float:
    """The share of a picture's area that is cut off when it is made to cover a size."""
    ratios = height / width, size[0] / size[1]
    return 1 - min(ratios) / max(ratios)
