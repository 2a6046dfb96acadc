"""The coarse-to-fine walk over the scales of a latent frame: the one recursion of the method.

Tokenizer, teacher and sampler all walk the same way and differ only in who chooses the code of a scale: the encoder's residual, the
residual with flipped bits, or the transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from modules.geometry import Pyramid

# Called with the scale's number, its context (B, d, h_k, w_k) and the sum so far (B, d, h, w); returns the code (B, d, h_k, w_k).
Choose = Callable[[int, Tensor, Tensor], Tensor]

# How the sum so far is made smaller for the transformer: averaged, which is antialiased, or point-sampled, as for Infinity's transformers.
Resize = Literal["area", "bilinear"]


def down(feature: Tensor, size: tuple[int, int], resize: Resize = "area") -> Tensor:
    """``(B, d, h, w)`` to ``size``. Residuals are always averaged; contexts by default (our decision)."""
    return feature if tuple(feature.shape[-2:]) == size else F.interpolate(feature, size=size, mode=resize)


def up(code: Tensor, size: tuple[int, int]) -> Tensor:
    """``(B, d, h_k, w_k)`` to ``size``, bilinear."""
    return code if tuple(code.shape[-2:]) == size else F.interpolate(code, size=size, mode="bilinear", align_corners=False)


def coarse_to_fine(pyramid: Pyramid, choose: Choose, start: Tensor, resize: Resize = "area") -> Tensor:
    """Build a latent frame scale by scale (paper Eq. 6).

    Args:
        pyramid: The scales.
        choose: Gives the code of a scale for its context, which is the sum so far at that scale's size.
        start: ``(B, d, h, w)`` zeros; frames of several clips and times may share the batch axis, each is quantised by itself.
        resize: How contexts are made smaller; one setting for training and sampling.

    Returns:
        ``(B, d, h, w)``: the sum of all up-sampled codes.
    """
    partial, full = start, pyramid.sizes[-1]
    for scale, size in enumerate(pyramid.sizes):
        code = choose(scale, down(partial, size, resize), partial)
        partial = partial + up(code, full)
    return partial
