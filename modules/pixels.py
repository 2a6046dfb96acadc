"""The one place where pixels change their range."""

import torch
from torch import Tensor


def to_unit(video: Tensor) -> Tensor:
    """uint8 0..255 to float32 -1..1; floats, which must be -1..1 already, stay.

    Raises:
        TypeError: For other integers.
    """
    if video.is_floating_point():
        return video.float()
    if video.dtype != torch.uint8:
        raise TypeError(f"expected uint8 pixels in 0..255 or floats in -1..1, got {video.dtype}")
    return video.float() / 127.5 - 1.0


def to_uint8(video: Tensor) -> Tensor:
    """Float -1..1, clamped and rounded, to uint8 0..255; uint8 stays."""
    if video.dtype == torch.uint8:
        return video
    return (video.float().clamp(-1.0, 1.0) + 1.0).mul(127.5).round().to(torch.uint8)


def check_unit(video: Tensor) -> None:
    """Raise ``ValueError`` if floats that should be pixels in -1..1 are something else, or all alike.

    Compared with 0..255 or 0..1, a reconstruction in -1..1 trains to a constant image without any error.
    """
    finite = video[video.isfinite()]
    if finite.numel() == 0:
        return  # not a number at all is not a wrong range: such batches are skipped and counted
    lowest, highest = finite.min().item(), finite.max().item()
    if lowest < -1.001 or highest > 1.001:
        raise ValueError(f"pixels must be in -1..1, the first batch has {lowest:g} to {highest:g}")
    if highest - lowest < 1e-3:
        raise ValueError(f"all pixels of the first batch are {lowest:g}; is the data empty?")
