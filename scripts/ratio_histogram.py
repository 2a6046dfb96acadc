"""How wide the pictures of a data set are for their height, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

# Width over height: the bins are this many to every doubling, and what lies outside goes into the first or the last.
BINS_PER_DOUBLING = 12
LARGEST = 4.0

TICKS = {"up to 1:4": 1 / 4, "1:3": 1 / 3, "1:2": 1 / 2, "9:16": 9 / 16, "3:4": 3 / 4, "1:1": 1.0, "4:3": 4 / 3, "16:9": 16 / 9, "2:1": 2.0}
TICKS |= {"3:1": 3.0, "from 4:1": 4.0}

# In pixels.
BAR, HEIGHT, MARGIN, BELOW, ABOVE = 20, 300, 60, 60, 50
FONT, SMALL = ImageFont.load_default(15), ImageFont.load_default(12)


def ratio_histogram(sizes: Sequence[tuple[int, int]], title: str) -> Image.Image:
    """A histogram over logarithmic bins, with the number of files over every bar.

    Args:
        sizes: Height and width of every file.
        title: Stands above.
    """
    counts = count_ratios([width / height for height, width in sizes])
    picture = Image.new("RGB", (2 * MARGIN + BAR * len(counts), ABOVE + HEIGHT + BELOW), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 12), title, "#222222", FONT)
    floor = ABOVE + HEIGHT
    for number, count in enumerate(counts):
        left, top = MARGIN + number * BAR, floor - round((HEIGHT - 20) * count / max(counts, default=1)) if count else floor
        if count:
            draw.rectangle((left + 1, min(top, floor - 2), left + BAR - 2, floor - 1), fill="#3b6ea5")
            draw.text((left + BAR / 2, top - 3), str(count), "#222222", SMALL, anchor="mb")
    draw.line((MARGIN, floor, MARGIN + BAR * len(counts), floor), fill="#888888")
    for text, ratio in TICKS.items():
        place = MARGIN + (_bin(ratio) + 0.5) * BAR
        draw.line((place, floor, place, floor + 5), fill="#888888")
        draw.text((place, floor + 8), text, "#444444", SMALL, anchor="mt")
    draw.text((picture.width / 2, floor + 30), "width : height", "#444444", FONT, anchor="mt")
    return picture


def count_ratios(ratios: Sequence[float]) -> list[int]:
    """How many lie in every bin, from narrow to wide; the one in the middle is around 1:1."""
    counts = [0] * (_bin(LARGEST) + 1)
    for ratio in ratios:
        counts[_bin(ratio)] += 1
    return counts


def _bin(ratio: float) -> int:
    return round((math.log2(min(max(ratio, 1 / LARGEST), LARGEST)) + math.log2(LARGEST)) * BINS_PER_DOUBLING)
