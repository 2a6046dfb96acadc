"""From a picture of any shape to the pixels of a clip: resize until it covers the clip, cut out, maybe mirror."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Self

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Framing:
    """Which part of a picture a clip shows: as much as fits its shape, at one place between the borders.

    One framing serves all frames of a clip, so that it adds no motion.

    Args:
        down: Where the clip lies on the axis that is cut, 0 at the top and 1 at the bottom.
        across: The same from left to right.
        mirrored: Whether left and right change places.

    Raises:
        ValueError: If ``down`` or ``across`` is outside 0..1.
    """

    down: float = 0.5
    across: float = 0.5
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not (0 <= self.down <= 1 and 0 <= self.across <= 1):
            raise ValueError(f"down and across must be within 0..1, got {self.down} and {self.across}")

    @classmethod
    def draw(cls, chance: random.Random, flip: bool) -> Self:
        """A random place, and with ``flip`` a mirror image in half of the draws."""
        return cls(down=chance.random(), across=chance.random(), mirrored=chance.random() < 0.5 and flip)

    def __call__(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """Cuts ``height x width`` pixels out of the resized picture.

        Args:
            pixels: ``(3, h, w)`` uint8.
            height: Rows of the result.
            width: Columns of the result.

        Returns:
            ``(3, height, width)`` uint8.
        """
        covering = _cover(pixels, height, width)
        top = round((covering.shape[-2] - height) * self.down)
        left = round((covering.shape[-1] - width) * self.across)
        window = covering[..., top : top + height, left : left + width]
        return window.flip(-1) if self.mirrored else window


CENTRE = Framing()

# How a picture becomes a clip's, for those who keep what was made of clips; another rule is another text.
RULE = "bicubic, antialiased, to cover; cut"


def _cover(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resizes so that one side fits and the other one reaches over; bicubic and antialiased, as Pillow does it."""
    rows, columns = pixels.shape[-2:]
    scale = max(height / rows, width / columns)
    size = max(height, round(rows * scale)), max(width, round(columns * scale))
    if size == (rows, columns):
        return pixels
    return functional.interpolate(pixels[None], size=size, mode="bicubic", antialias=True)[0]
