"""Histogram of aspect ratios as an image; needs matplotlib (``pip install -e '.[plots]'``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Bins per doubling of width : height. Ratios outside 1:4..4:1 count in the first or last bin.
BINS_PER_DOUBLING = 12
MAX_RATIO = 4.0

TICKS = {"1:4": 1 / 4, "1:3": 1 / 3, "1:2": 1 / 2, "9:16": 9 / 16, "3:4": 3 / 4, "1:1": 1.0}
TICKS |= {"4:3": 4 / 3, "16:9": 16 / 9, "2:1": 2.0, "3:1": 3.0, "4:1": 4.0}


def count_ratios(ratios: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and edges of logarithmic bins over width : height; the middle bin is centred at 1."""
    steps = 2 * BINS_PER_DOUBLING
    edges = 2.0 ** (np.arange(-steps - 0.5, steps + 1) / BINS_PER_DOUBLING)
    return np.histogram(np.clip(ratios, 1 / MAX_RATIO, MAX_RATIO), edges)


def plot_ratios(path: Path, sizes: Sequence[tuple[int, int]]) -> bool:
    """Write a histogram of ``(height, width)`` pairs; return False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    counts, edges = count_ratios([width / height for height, width in sizes])
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    axes.stairs(counts, edges, fill=True)
    axes.set_xscale("log")
    axes.set_xticks(list(TICKS.values()), list(TICKS), minor=False)
    axes.minorticks_off()
    axes.set(title=f"Aspect ratios of {len(sizes)} files", xlabel="width : height", ylabel="files")
    figure.savefig(path)
    return True
