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


MAX_RATIO = 0.5  # above it, flipped bits carry information again


class BitCorruption:
    """Flips bits with a ratio drawn per clip, latent frame and scale.

    Frame ``t`` (from 0) and scale ``k`` draw ``p[t, k] ~ U(p_min + delta_min t, p_max + delta t)``: the *time-dependent corruption*. With
    *error inheritance*, the first scale of every later frame is redrawn from ``U(p[t-1, K], p_max + delta t)``, so a frame starts with
    at least the error level at which the previous one ended. Ratios are clipped to [0, 0.5].

    Args:
        p_min: Lower end of the ratio at frame 0.
        p_max: Upper end of the ratio at frame 0.
        delta: Rise of the upper end from frame to frame.
        inherit: True for error inheritance. May be set from outside at any time.
        delta_min: Rise of the lower end; ``delta`` if not given (Eq. 8), 0 in the variant that Fig. 3 draws.

    Raises:
        ValueError: If not ``0 <= p_min <= p_max <= 0.5`` and ``0 <= delta_min <= delta``.
    """

    def __init__(
        self, p_min: float = 0.0, p_max: float = 0.0, delta: float = 0.0, inherit: bool = False, delta_min: float | None = None
    ) -> None:
        self.inherit = inherit
        self.set_ratios(p_min, p_max, delta, delta_min)

    def set_ratios(self, p_min: float, p_max: float, delta: float, delta_min: float | None = None) -> None:
        """Set the range of ratios, which schedules do at every step; arguments and errors as of the constructor."""
        if not 0.0 <= p_min <= p_max <= MAX_RATIO or delta < 0.0:
            given = f"p_min {p_min:g}, p_max {p_max:g}, delta {delta:g}"
            raise ValueError(f"flip ratios need 0 <= p_min <= p_max <= {MAX_RATIO} and delta >= 0, got {given}")
        delta_min = delta if delta_min is None else delta_min
        if not 0.0 <= delta_min <= delta:
            raise ValueError(f"delta_min must be between 0 and delta {delta:g}, got {delta_min:g}")
        self.p_min, self.p_max, self.delta, self.delta_min = p_min, p_max, delta, delta_min

    def prepare(self, latent: Tensor, pyramid: Pyramid) -> ContextFn:
        """Draw the ratios of a batch; see :class:`ContextSource`."""
        ratios = self.draw_ratios(latent.shape[0], latent.shape[2], pyramid.scales, latent.device).flatten(0, 1)
        return lambda scale, bits: self.flip(bits, ratios[:, scale])

    def draw_ratios(self, clips: int, frames: int, scales: int, device: torch.device) -> Tensor:
        """Ratios ``(clips, frames, scales)`` in [0, 0.5]."""
        frame = torch.arange(frames, device=device)[None, :, None]
        lower = (self.p_min + self.delta_min * frame).clamp(max=MAX_RATIO)
        upper = (self.p_max + self.delta * frame).clamp(max=MAX_RATIO)
        ratios = lower + (upper - lower) * torch.rand(clips, frames, scales, device=device)
        if self.inherit:
            for frame_index in range(1, frames):
                previous = ratios[:, frame_index - 1, -1]
                highest = upper[:, frame_index, 0]
                ratios[:, frame_index, 0] = previous + (highest - previous) * torch.rand(clips, device=device)
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
