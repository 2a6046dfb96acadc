"""Cross-frame error correction: bits that are flipped in training as they will be wrong in sampling (paper 4.2, Eq. 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from modules.geometry import Pyramid

# Called with a scale and its true bits (B * t, d, h_k, w_k) bool; returns the bits that the model is shown in their place.
ContextFn = Callable[[int, Tensor], Tensor]


class ContextSource(Protocol):
    """Decides what the model is shown of a clip in training instead of its true bits."""

    def start(self, latent: Tensor, pyramid: Pyramid) -> ContextFn:
        """Begin with clips ``(B, d, t, h, w)``, whose scales are then shown from coarse to fine, all frames of a scale at once."""
        ...


MOST = 0.5  # more than half of the bits wrong would say more than no bit at all


class BitCorruption:
    """Flips bits with a ratio drawn per clip, latent frame and scale.

    Frame ``t`` (from 0) and scale ``k`` draw ``p[t, k] ~ U(p_min + delta t, p_max + delta t)``: the *time-dependent corruption*. With
    *error inheritance*, the first scale of every later frame is redrawn from ``U(p[t-1, K], p_max + delta t)``, so a frame starts at
    least as wrong as the one before it ended. Ratios are clipped to [0, 0.5]. All attributes may be set from outside at any time.

    Args:
        p_min: Lower end of the ratio at frame 0.
        p_max: Upper end of the ratio at frame 0.
        delta: By how much both ends rise from frame to frame.
        inherit: Whether errors are inherited.

    Raises:
        ValueError: If not ``0 <= p_min <= p_max <= 0.5`` or ``delta`` is negative.
    """

    def __init__(self, p_min: float = 0.0, p_max: float = 0.0, delta: float = 0.0, inherit: bool = False) -> None:
        if not 0.0 <= p_min <= p_max <= MOST or delta < 0.0:
            raise ValueError(f"flip ratios need 0 <= p_min <= p_max <= {MOST} and delta >= 0, got {p_min}, {p_max}, {delta}")
        self.p_min, self.p_max, self.delta, self.inherit = p_min, p_max, delta, inherit

    def start(self, latent: Tensor, pyramid: Pyramid) -> ContextFn:
        """Draw the ratios of a batch; see :class:`ContextSource`."""
        ratios = self.draw_ratios(latent.shape[0], latent.shape[2], pyramid.scales, latent.device).flatten(0, 1)
        return lambda scale, bits: self.flip(bits, ratios[:, scale])

    def draw_ratios(self, clips: int, frames: int, scales: int, device: torch.device) -> Tensor:
        """Ratios ``(clips, frames, scales)`` in [0, 0.5]."""
        rise = self.delta * torch.arange(frames, device=device)[None, :, None]
        lower, upper = (self.p_min + rise).clamp(max=MOST), (self.p_max + rise).clamp(max=MOST)
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
    """A module whose training corrupts bits; what the scheduling callbacks ask for."""

    corruption: BitCorruption
