"""Sizes and coordinates: the size of a clip, the scales of a latent frame, the coordinates of each token.

All classes are frozen values derived from ``(frames, height, width)``; nothing is learned and nothing is configured twice.

Axes, throughout the project: ``B`` clips, ``T`` video frames, ``H, W`` pixels, ``t`` latent frames, ``h, w`` latent rows and
columns, ``d`` bits per token, ``L`` tokens, ``C`` transformer width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from modules.scale_schedules import published

PUBLISHED = published()

# Longer sides of the scales below the full grid, for a grid without a published schedule.
LONG_SIDES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128)


@dataclass(frozen=True)
class Clip:
    """Size and frame rate of a training or generated clip. An image is a clip of one frame.

    Args:
        frames: Number of video frames, 1 for images.
        height: Height in pixels.
        width: Width in pixels.
        fps: Frames per second at which videos are sampled and written.
    """

    frames: int = 17
    height: int = 32
    width: int = 32
    fps: float = 8.0

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width", "fps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"clip.{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class Pyramid:
    """The scales of one latent frame, coarse to fine; the last one is the latent grid itself (paper 4.1).

    Args:
        sizes: ``(h_k, w_k)`` of every scale.

    Raises:
        ValueError: If there is no scale, a side is below 1 or a later scale is smaller than an earlier one.
    """

    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("a pyramid needs at least one scale")
        for (height, width), (next_height, next_width) in pairwise(self.sizes):
            if next_height < height or next_width < width or (height, width) == (next_height, next_width):
                raise ValueError(f"scales must grow: ({height}, {width}) is followed by ({next_height}, {next_width})")
        if min(self.sizes[0]) < 1:
            raise ValueError(f"a scale has at least one row and one column, got {self.sizes[0]}")

    @classmethod
    @lru_cache
    def of(cls, height: int, width: int) -> Pyramid:
        """Return the scales of a latent grid: Infinity's published schedule if there is one, otherwise our rule.

        The rule (our decision): the longer side takes the values 1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, ... below the grid's longer side,
        followed by the grid itself; the shorter side is proportional, rounded, at least 1.
        """
        if height < 1 or width < 1:
            raise ValueError(f"a latent grid has at least one row and one column, got {height} x {width}")
        if (height, width) in PUBLISHED:
            return cls(PUBLISHED[height, width])
        longer = max(height, width)
        sides = [side for side in LONG_SIDES if side < longer]
        sizes = [(max(1, round(side * height / longer)), max(1, round(side * width / longer))) for side in sides]
        return cls((*sizes, (height, width)))

    @property
    def scales(self) -> int:
        return len(self.sizes)

    @property
    def areas(self) -> tuple[int, ...]:
        """Number of tokens of every scale."""
        return tuple(height * width for height, width in self.sizes)

    @property
    def tokens(self) -> int:
        """Number of tokens of one latent frame over all scales."""
        return sum(self.areas)


@dataclass(frozen=True)
class Layout:
    """Frame, scale, row and column of every token of a video: frames in order, scales coarse to fine, rows, columns.

    Args:
        pyramid: The scales of one latent frame.
        frames: Number of latent frames.
    """

    pyramid: Pyramid
    frames: int

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"a layout needs at least one latent frame, got {self.frames}")

    @classmethod
    def of(cls, latent: Tensor) -> Layout:
        """Return the layout of latents ``(B, d, t, h, w)``."""
        return cls(Pyramid.of(*latent.shape[3:]), latent.shape[2])

    @property
    def tokens(self) -> int:
        return self.frames * self.pyramid.tokens

    def coordinates(self) -> Tensor:
        """Return ``(L, 4)`` int64: frame, scale, row and column of every token."""
        one_frame = torch.cat([_grid(scale, *size) for scale, size in enumerate(self.pyramid.sizes)])
        frames = torch.arange(self.frames).repeat_interleave(len(one_frame))
        return torch.cat([frames[:, None], one_frame.repeat(self.frames, 1)], dim=1)

    def block(self, frame: int, scale: int) -> slice:
        """Return the slice of the sequence with the tokens of scale ``scale`` of frame ``frame``."""
        start = frame * self.pyramid.tokens + sum(self.pyramid.areas[:scale])
        return slice(start, start + self.pyramid.areas[scale])


def _grid(scale: int, height: int, width: int) -> Tensor:
    """Return ``(height * width, 3)``: scale, row and column of the tokens of one scale."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.full_like(rows, scale), rows, columns], dim=-1).flatten(0, 1)
