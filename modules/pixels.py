"""The one place where pixels change their range."""

import torch
from torch import Tensor


def to_unit(video: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1.

    Raises:
        TypeError: If ``video`` is not uint8, the usual sign of pixels that were scaled twice.
    """
    if video.dtype != torch.uint8:
        raise TypeError(f"expected uint8 pixels in 0..255, got {video.dtype}")
    return video.float() / 127.5 - 1.0


def to_uint8(video: Tensor) -> Tensor:
    """Float -1..1, clamped and rounded, to uint8 0..255."""
    return (video.float().clamp(-1.0, 1.0) + 1.0).mul(127.5).round().to(torch.uint8)
