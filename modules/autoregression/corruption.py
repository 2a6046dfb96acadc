"""Cross-frame error correction: bit flips in training that imitate sampling errors (paper 4.2, Eq. 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from modules.geometry import Pyramid

# Maps a scale index and its true bits (B * t, d, h_k, w_k) bool to the bits used as context.
ContextFn = Callable[[int, Tensor], Tensor]


class ContextSource(Protocol):
    """Source of the bits that replace the true ones as context in training."""

    def prepare(self, latent: Tensor, pyramid: Pyramid) -> ContextFn:
        """Prepare for latents ``(B, d, t, h, w)``; the returned function is called once per scale, coarse to fine, for all frames."""
        ...


MAX_RATIO = 0.5  # above 0.5, flipped bits carry information again


class BitCorruption:
    """Flips bits with a ratio drawn per clip, latent frame and scale.

    Frame ``t`` (from 0) and scale ``k`` draw ``p[t, k] ~ U(p_min + delta t, p_max + delta t)``: the *time-dependent corruption*. With
    *error inheritance*, the first scale of every later frame is redrawn from ``U(p[t-1, K], p_max + delta t)``, so a frame
    starts with at least the error ratio at which the previous one ended. Ratios are clipped to [0, 0.5].
    Attributes may be changed at any time.

    Args:
        p_min: Lower end of the ratio at frame 0.
        p_max: Upper end of the ratio at frame 0.
        delta: Increase of both ends per frame.
        inherit: Enable error inheritance.

    Raises:
        ValueError: If not ``0 <= p_min <= p_max <= 0.5`` or ``delta`` is negative.
    """

    def __init__(self, p_min: float = 0.0, p_max: float = 0.0, delta: float = 0.0, inherit: bool = False) -> None:
        if not 0.0 <= p_min <= p_max <= MAX_RATIO or delta < 0.0:
            raise ValueError(f"flip ratios need 0 <= p_min <= p_max <= {MAX_RATIO} and delta >= 0, got {p_min}, {p_max}, {delta}")
        self.p_min, self.p_max, self.delta, self.inherit = p_min, p_max, delta, inherit

    def prepare(self, latent: Tensor, pyramid: Pyramid) -> ContextFn:
        """Draw the ratios of a batch; see :class:`ContextSource`."""
        ratios = self.draw_ratios(latent.shape[0], latent.shape[2], pyramid.scales, latent.device).flatten(0, 1)
        return lambda scale, bits: self.flip(bits, ratios[:, scale])

    def draw_ratios(self, clips: int, frames: int, scales: int, device: torch.device) -> Tensor:
        """Ratios ``(clips, frames, scales)`` in [0, 0.5]."""
        rise = self.delta * torch.arange(frames, device=device)[None, :, None]
        lower, upper = (self.p_min + rise).clamp(max=MAX_RATIO), (self.p_max + rise).clamp(max=MAX_RATIO)
        ratios = lower + (upper - lower) * torch.rand(clips, frames, scales, device=device)
        if self.inherit:
            for frame in range(1, frames):
                ended = ratios[:, frame - 1, -1]
                ratios[:, frame, 0] = ended + (upper[:, frame, 0] - ended) * torch.rand(clips, device=device)
        return ratios

    @staticmethod
    def flip(bits: Tensor, ratio: Tensor) -> Tensor:
        """Flip every bit of ``(N, ...)`` with the probability of its row, ``ratio`` ``(N,)``."""
        chance = ratio.view(-1, *[1] * (bits.ndim - 1))
        return bits ^ (torch.rand(bits.shape, device=bits.device) < chance)


@runtime_checkable
class Corrupts(Protocol):
    """A module whose training corrupts bits; required by the scheduling callbacks."""

    corruption: BitCorruption
