"""Multi-scale residual quantiser: latent frames to bits of each scale, and back (paper 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from modules.geometry import Pyramid
from modules.tokenizer import bsq
from modules.tokenizer.pyramid import coarse_to_fine, downsample


@dataclass(frozen=True)
class Quantized:
    """Result of quantising a latent.

    Attributes:
        latent: ``(B, d, t, h, w)`` sum of the codes of all scales, the decoder's input.
        bits: For each scale ``(B, t, h_k, w_k, d)`` uint8, 0 or 1.
        commitment: Commitment loss of each scale that was not dropped.
        entropy: Entropy penalty of each scale that was not dropped.
        residual_energy: ``(K,)`` fraction of the latent's energy that remains after each scale, without gradient.
    """

    latent: Tensor
    bits: list[Tensor]
    commitment: Tensor
    entropy: Tensor
    residual_energy: Tensor


def quantize(latent: Tensor, pyramid: Pyramid, drop: float = 0.0) -> Quantized:
    """Quantise each latent frame separately, in float32, with straight-through gradients, also through the residuals.

    Args:
        latent: ``(B, d, t, h, w)`` continuous latent.
        pyramid: The scales.
        drop: Probability with which each scale but the last adds nothing in this call, so that coarse and fine scales do not depend on
            each other (Infinity's recipe: 0.5 in training). Bits are returned for dropped scales too.
    """
    frames = rearrange(latent.float(), "b d t h w -> (b t) d h w")
    drawn = (torch.rand(pyramid.scales) >= drop).tolist() if drop else [True] * pyramid.scales
    kept = [*drawn[:-1], True]
    bits, commitments, entropies, energies = [], [], [], []

    def residual_code(scale: int, context: Tensor, partial: Tensor) -> Tensor:
        residual = frames - partial
        energies.append(_energy(residual))
        sphere, codes = bsq.straight_through(downsample(residual, pyramid.sizes[scale]))
        bits.append(bsq.to_bits(sphere))
        if not kept[scale]:
            return torch.zeros_like(codes)
        commitments.append(bsq.commitment(sphere, codes))
        entropies.append(bsq.entropy_penalty(sphere))
        return codes

    total = coarse_to_fine(pyramid, residual_code, torch.zeros_like(frames))
    energy = torch.stack([*energies, _energy(frames - total)])
    return Quantized(
        latent=rearrange(total, "(b t) d h w -> b d t h w", b=len(latent)),
        bits=[rearrange(scale, "(b t) d h w -> b t h w d", b=len(latent)).to(torch.uint8) for scale in bits],
        commitment=torch.stack(commitments),
        entropy=torch.stack(entropies),
        residual_energy=energy[1:] / energy[0].clamp_min(1e-12),
    )


def dequantize(bits: Sequence[Tensor]) -> Tensor:
    """Bits ``(B, t, h_k, w_k, d)`` of each scale, 0 or 1, to the latent ``(B, d, t, h, w)``.

    Raises:
        ValueError: If the scales do not grow to the last one.
    """
    pyramid = Pyramid(tuple((scale.shape[2], scale.shape[3]) for scale in bits))
    codes = [bsq.to_codes(rearrange(scale, "b t h w d -> (b t) d h w")) for scale in bits]
    total = coarse_to_fine(pyramid, lambda scale, context, partial: codes[scale], torch.zeros_like(codes[-1]))
    return rearrange(total, "(b t) d h w -> b d t h w", b=len(bits[-1]))


def _energy(frames: Tensor) -> Tensor:
    return frames.detach().square().mean()
