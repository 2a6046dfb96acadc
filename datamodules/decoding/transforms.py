"""Resize, crop and flip from frames of any shape to the size of a clip."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Self

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Framing:
    """Resize-to-cover and crop, the same for all frames of a clip, so that it adds no motion.

    Args:
        down: Position of the crop on the vertical axis, 0 at the top and 1 at the bottom.
        across: Position on the horizontal axis, 0 at the left and 1 at the right.
        mirrored: Whether to flip left and right.

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
    def draw(cls, generator: random.Random, flip: bool) -> Self:
        """Return a random position, flipped with probability 0.5 if ``flip``."""
        return cls(down=generator.random(), across=generator.random(), mirrored=generator.random() < 0.5 and flip)

    def __call__(self, pixels: Tensor, height: int, width: int) -> Tensor:
        """Crop ``height x width`` pixels out of the resized frame.

        Args:
            pixels: ``(3, h, w)`` uint8.
            height: Height of the result.
            width: Width of the result.

        Returns:
            ``(3, height, width)`` uint8.
        """
        resized = _resize_to_cover(pixels, height, width)
        top = round((resized.shape[-2] - height) * self.down)
        left = round((resized.shape[-1] - width) * self.across)
        window = resized[..., top : top + height, left : left + width]
        return window.flip(-1) if self.mirrored else window


CENTRE = Framing()

# Identifies this preprocessing in latent caches. Another rule needs another text.
RESIZE_RULE = "bicubic, antialiased, to cover; cut"


def _resize_to_cover(pixels: Tensor, height: int, width: int) -> Tensor:
    """Resize until the frame covers ``height x width``; bicubic and antialiased, as Pillow does it."""
    rows, columns = pixels.shape[-2:]
    scale = max(height / rows, width / columns)
    size = max(height, round(rows * scale)), max(width, round(columns * scale))
    if size == (rows, columns):
        return pixels
    return functional.interpolate(pixels[None], size=size, mode="bicubic", antialias=True)[0]
