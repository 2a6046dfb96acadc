"""Figures with matplotlib, which is an optional dependency."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


@contextmanager
def figure(path: Path, rows: int, columns: int, size: tuple[float, float], **settings: Any) -> Iterator[np.ndarray]:
    """Yield a grid ``(rows, columns)`` of axes, written to ``path`` when the block ends without an error.

    Args:
        path: PNG file.
        rows: Rows of the grid.
        columns: Columns of the grid.
        size: Width and height in inches.
        settings: More settings of ``matplotlib.figure.Figure.subplots``.
    """
    from matplotlib.figure import Figure

    drawing = Figure(figsize=size, layout="tight")
    yield drawing.subplots(rows, columns, squeeze=False, **settings)
    drawing.savefig(path, dpi=80)
