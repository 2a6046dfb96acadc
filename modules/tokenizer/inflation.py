"""From an image tokenizer's kernels to a video tokenizer's (paper 4.1)."""

from __future__ import annotations

import torch
from torch import Tensor


def can_inflate(kernel: Tensor, target: Tensor) -> bool:
    """Whether the shapes differ only in a temporal axis that is 1 in ``kernel``."""
    return kernel.ndim == target.ndim == 5 and kernel.shape[2] == 1 and kernel[:, :, 0].shape == target[:, :, 0].shape


def inflate_kernel(kernel: Tensor, earlier: Tensor) -> Tensor:
    """A 2D kernel as the last temporal slice of a 3D one.

    Args:
        kernel: ``(out, in, 1, h, w)``.
        earlier: ``(out, in, n, h, w)``, the slices before it. With zeros the video network starts exactly equal to the image network.

    Returns:
        ``(out, in, n + 1, h, w)``.
    """
    return torch.cat([earlier.to(kernel.dtype), kernel], dim=2)
