"""Training on sampled context frames, which exposes the model to its own errors (future work in the paper; our design)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from modules.autoregression.corruption import ContextFn
from modules.autoregression.guidance import Guidance
from modules.autoregression.sampler import Sampler
from modules.geometry import Layout, Pyramid
from modules.transformer import VideoARTransformer

UNGUIDED = Guidance(1.0, 1.0, 1.0, 1.0)


class Rollout:
    """Replaces flipped true bits by sampled bits of a few latent frames, in a fraction of the training steps.

    Such a step keeps the true bits of the first latent frames (at least one), samples the next ``frames`` frames, and uses true bits for
    the rest. Targets are corrected as for flipped bits: the target of each scale is the quantised residual of the true latent with respect
    to the context so far, so the model learns to recover from its own errors. All other steps use bit corruption, as do clips of a single
    latent frame.

    A sampling step additionally costs the forward passes of the given and sampled frames. The step number alone decides which steps
    sample, so all processes agree and a resumed run continues identically.

    Args:
        fraction: Fraction of training steps that sample, 0 to 1.
        frames: Number of latent frames to sample, truncated at the end of the clip.
        sampler: Bit sampler; no guidance and temperature 1 by default.

    Raises:
        ValueError: If ``fraction`` is outside [0, 1] or ``frames`` is below 1.
    """

    def __init__(self, fraction: float = 0.25, frames: int = 2, sampler: Sampler | None = None) -> None:
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"the fraction of steps with a rollout must be within 0 and 1, got {fraction}")
        if frames < 1:
            raise ValueError(f"a rollout samples at least 1 latent frame, got {frames}")
        self.fraction, self.frames = fraction, frames
        self.sampler = sampler or Sampler(UNGUIDED)

    def due(self, step: int) -> bool:
        """Return True if optimizer step ``step`` samples; sampling steps are evenly spaced."""
        return math.floor((step + 1) * self.fraction) > math.floor(step * self.fraction)

    def context_source(self, transformer: VideoARTransformer, ids: Tensor, layout: Layout) -> SampledContext:
        """Choose the first sampled frame at random and return the context source of a batch.

        Args:
            transformer: The model in training.
            ids: ``(B, P)`` condition ids.
            layout: Layout of the clips; at least two latent frames.
        """
        last = max(1, layout.frames - self.frames - 1)
        first = int(torch.randint(1, last + 1, ()))
        sampled = range(first, min(first + self.frames, layout.frames))
        return SampledContext(self.sampler, transformer, ids, sampled)


class SampledContext(NamedTuple):
    """Sampled context bits in ``frames``, true bits elsewhere."""

    sampler: Sampler
    transformer: VideoARTransformer
    ids: Tensor
    frames: range

    def prepare(self, latent: Tensor, pyramid: Pyramid) -> ContextFn:
        """Sample the frames; see :class:`modules.autoregression.corruption.ContextSource`."""
        layout, given = Layout(pyramid, self.frames.stop), latent[:, :, : self.frames.start]
        generators = [torch.Generator().manual_seed(seed) for seed in torch.randint(2**62, (len(latent),)).tolist()]
        made = list(self.sampler.frames(self.transformer, self.ids, layout, generators, given))

        def context_bits(scale: int, bits: Tensor) -> Tensor:
            context = bits.unflatten(0, (len(latent), -1)).clone()
            for frame in self.frames:
                context[:, frame] = made[frame].bits[scale]
            return context.flatten(0, 1)

        return context_bits
