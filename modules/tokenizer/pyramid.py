"""Coarse-to-fine recursion over the scales of a latent frame, shared by tokenizer, teacher forcing and sampler.

The three differ only in the source of each scale's code: the encoder's residual, the residual with flipped bits, or the transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from modules.geometry import Pyramid

# Called with the index of a scale, its context (B, d, h_k, w_k) and the partial sum (B, d, h, w); returns the code (B, d, h_k, w_k).
CodeFn = Callable[[int, Tensor, Tensor], Tensor]

# Downsampling of contexts: averaged, which is antialiased, or point-sampled, as for Infinity's transformers.
ResizeMode = Literal["area", "bilinear"]


def downsample(feature: Tensor, size: tuple[int, int], resize: ResizeMode = "area") -> Tensor:
    """``(B, d, h, w)`` to ``size``. Residuals are always averaged; contexts by default (our decision)."""
    return feature if tuple(feature.shape[-2:]) == size else F.interpolate(feature, size=size, mode=resize)


def upsample(code: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, d, h_k, w_k)`` to ``size``, bilinear."""
    return code if tuple(code.shape[-2:]) == size else F.interpolate(code, size=size, mode="bilinear", align_corners=False)


def coarse_to_fine(pyramid: Pyramid, code_fn: CodeFn, start: Tensor, resize: ResizeMode = "area") -> Tensor:
    """Build a latent frame scale by scale (paper Eq. 6).

    Args:
        pyramid: The scales.
        code_fn: Returns the code of a scale. Its context is the partial sum at the size of that scale.
        start: ``(B, d, h, w)`` zeros; frames of several clips and times may share the batch axis and do not affect each other.
        resize: Downsampling of contexts; must be the same in training and sampling.

    Returns:
        ``(B, d, h, w)``: the sum of all upsampled codes.
    """
    partial, full = start, pyramid.sizes[-1]
    for scale, size in enumerate(pyramid.sizes):
        code = code_fn(scale, downsample(partial, size, resize), partial)
        partial = partial + upsample(code, full)
    return partial
