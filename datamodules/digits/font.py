"""Ten digits in a 5 x 7 font, drawn with exact area coverage on a torus: digits leave the frame on one side and enter on the other."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS, COLUMNS = 7, 5

_SHAPES = """
.###.  ..#..  .###.  #####  ...#.  #####  ..##.  #####  .###.  .###.
#...#  .##..  #...#  ...#.  ..##.  #....  .#...  ....#  #...#  #...#
#...#  ..#..  ....#  ..#..  .#.#.  ####.  #....  ...#.  #...#  #...#
#...#  ..#..  ...#.  ...#.  #..#.  ....#  ####.  ..#..  .###.  .####
#...#  ..#..  ..#..  ....#  #####  ....#  #...#  .#...  #...#  ....#
#...#  ..#..  .#...  #...#  ...#.  #...#  #...#  .#...  #...#  ...#.
.###.  .###.  #####  .###.  ...#.  .###.  .###.  .#...  .###.  .##..
"""

# (10, ROWS, COLUMNS), 1 where a digit has ink.
GLYPHS = torch.tensor([[[mark == "#" for mark in word] for word in line.split()] for line in _SHAPES.split("\n") if line])
GLYPHS = GLYPHS.transpose(0, 1).double().contiguous()


def cell_size(height: int, width: int) -> float:
    """Return the pixels per font cell: 3 at 32 x 32, where a digit is 15 wide and 21 high, and proportional to the shorter side."""
    return 3 * min(height, width) / 32


def draw(digits: Tensor, tops: Tensor, lefts: Tensor, height: int, width: int) -> Tensor:
    """Return the fraction of every pixel that is covered by ink.

    Args:
        digits: ``(N,)`` int64, 0..9, one digit per frame.
        tops: ``(N,)`` row of the digit's upper edge in pixels; any real number, taken modulo ``height``.
        lefts: ``(N,)`` column of the digit's left edge in pixels; any real number, taken modulo ``width``.
        height: Rows of a frame.
        width: Columns of a frame.

    Returns:
        ``(N, height, width)`` float64, 0..1.
    """
    cell = cell_size(height, width)
    down = _coverage(tops, ROWS, height, cell)
    across = _coverage(lefts, COLUMNS, width, cell)
    return down @ GLYPHS[digits] @ across.transpose(1, 2)


def _coverage(starts: Tensor, cells: int, pixels: int, cell: float) -> Tensor:
    """Return the overlap of every pixel of one axis with every font cell, ``(N, pixels, cells)``."""
    edges = starts[:, None, None].double() + cell * torch.arange(cells, dtype=torch.float64)
    # Start of a pixel relative to the cell's edge, along the shorter way around the torus.
    begins = (torch.arange(pixels, dtype=torch.float64)[:, None] - edges + pixels / 2) % pixels - pixels / 2
    return ((begins + 1).clamp(max=cell) - begins.clamp(min=0)).clamp(min=0)
