"""Clip sizes by aspect ratio: the published ones, the nearest to a frame, and the area lost by cropping."""

from __future__ import annotations

from functools import lru_cache

from modules.geometry import PUBLISHED, Clip

# Height and width.
Size = tuple[int, int]

# Pixels along a side of a token in the published schedules.
TOKEN = 16


def published_sizes(clip: Clip) -> list[Size]:
    """Return the sizes of the published pixel budget that contains the size of a clip, wide ones first.

    Raises:
        ValueError: If no budget contains it.
    """
    budgets: dict[int, list[Size]] = {}
    for (rows, columns), schedule in PUBLISHED.items():
        budgets.setdefault(len(schedule), []).append((rows * TOKEN, columns * TOKEN))
    for sizes in budgets.values():
        if (clip.height, clip.width) in sizes:
            return sorted(sizes, key=lambda size: size[0] / size[1])
    raise ValueError(f"{clip.height} x {clip.width} pixels are not a published size; set sizes")


@lru_cache(maxsize=4096)
def nearest_size(height: int, width: int, sizes: tuple[Size, ...]) -> Size:
    """Return the size that crops the least area of a frame; of equally good ones the first."""
    return min(sizes, key=lambda size: cropped_fraction(height, width, size))


def cropped_fraction(height: int, width: int, size: Size) -> float:
    """Return the fraction of a frame's area that is cropped when it is resized to cover a size."""
    ratios = height / width, size[0] / size[1]
    return 1 - min(ratios) / max(ratios)
