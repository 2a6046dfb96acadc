"""Teacher forcing: latents to transformer inputs and targets, coarse to fine (paper Eq. 6 and 8)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from modules.autoregression.corruption import ContextSource
from modules.geometry import Pyramid
from modules.tokenizer.bsq import to_bits, to_codes
from modules.tokenizer.pyramid import ResizeMode, coarse_to_fine, downsample


class TeacherForcingBatch(NamedTuple):
    """Inputs and targets of a training batch.

    Attributes:
        inputs: ``(B, L, d)`` context of every token.
        targets: ``(B, L, d)`` bool, its bits.
        complete: ``(B, t, d, h, w)`` the sum of all scales of every frame, built from the context bits.
    """

    inputs: Tensor
    targets: Tensor
    complete: Tensor


@torch.no_grad()
def teacher_forcing(latent: Tensor, context_source: ContextSource, pyramid: Pyramid, resize: ResizeMode = "area") -> TeacherForcingBatch:
    """Teacher forcing with self-correction.

    The context of a scale is built from the *context* bits of the coarser scales (flipped ones, or samples), and its target is the
    quantised residual with respect to that sum; so the targets already correct earlier errors. The first scale of a later
    frame sees the complete feature of the previous frame built from its context bits, so errors propagate across frames.
    Targets always follow the true latent.

    Args:
        latent: ``(B, d, t, h, w)`` continuous encoder output.
        context_source: Source of the context bits; a corruption with ratio 0 returns the true bits.
        pyramid: The scales of a latent frame.
        resize: Downsampling of contexts; must equal that of the transformer.

    Returns:
        Inputs and targets in the order of :class:`modules.geometry.Layout`.
    """
    clips = len(latent)
    frames = rearrange(latent.float(), "b d t h w -> (b t) d h w")
    context_bits = context_source.prepare(latent, pyramid)
    contexts, targets = [], []

    def choose(scale: int, context: Tensor, partial: Tensor) -> Tensor:
        bits = to_bits(downsample(frames - partial, pyramid.sizes[scale]))
        contexts.append(context)
        targets.append(bits)
        return to_codes(context_bits(scale, bits))

    complete = rearrange(coarse_to_fine(pyramid, choose, torch.zeros_like(frames), resize), "(b t) d h w -> b t d h w", b=clips)
    contexts[0] = opening_contexts(complete, pyramid.sizes[0], resize)
    return TeacherForcingBatch(pack(contexts, clips), pack(targets, clips), complete)


def opening_contexts(complete: Tensor, size: tuple[int, int], resize: ResizeMode) -> Tensor:
    """Context of every frame's first scale: the complete feature of the frame before it, zeros for frame 0.

    Args:
        complete: ``(B, t, d, h, w)`` sums of all scales.
        size: ``(h_1, w_1)`` of the first scale.
        resize: Downsampling of contexts.

    Returns:
        ``(B * t, d, h_1, w_1)``.
    """
    before = torch.cat([torch.zeros_like(complete[:, :1]), complete[:, :-1]], dim=1)
    return downsample(before.flatten(0, 1), size, resize)


def pack(scales: list[Tensor], clips: int) -> Tensor:
    """``(B * t, d, h_k, w_k)`` of every scale to one sequence ``(B, L, d)``: frames, then scales, then rows and columns."""
    tokens = torch.cat([rearrange(scale, "n d h w -> n (h w) d") for scale in scales], dim=1)
    return rearrange(tokens, "(b t) n d -> b (t n) d", b=clips)
