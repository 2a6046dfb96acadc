"""Training on the model's own samples, so that it meets the errors it makes itself (listed as future work in the paper; our design)."""

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
    """In a fraction of the steps the model is shown its own samples of a few latent frames in place of flipped true bits.

    Such a step takes the true bits of the first latent frames, at least one, samples the next ``frames`` ones after them, and shows the
    true bits again after these. Targets are corrected as under flips: at every scale of a sampled frame they are what the true latent has
    and the samples so far have not, and the frames after it are the true ones. So the model learns the way back from its own errors. The
    other steps are corrupted as usual. Clips of one latent frame have nothing to roll out.

    A step that samples costs the forward passes of the given and sampled frames more. Which steps do is a function of their number alone:
    all processes do it at once, and a resumed run goes on as it would have.

    Args:
        fraction: Share of the training steps that sample, 0 to 1.
        frames: Latent frames to sample, fewer where the clip ends.
        sampler: How bits are drawn; without guidance and at temperature 1 if not given.

    Raises:
        ValueError: If the fraction is outside [0, 1] or no frame is to be sampled.
    """

    def __init__(self, fraction: float = 0.25, frames: int = 2, sampler: Sampler | None = None) -> None:
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"the fraction of steps with a rollout must be within 0 and 1, got {fraction}")
        if frames < 1:
            raise ValueError(f"a rollout samples at least 1 latent frame, got {frames}")
        self.fraction, self.frames = fraction, frames
        self.sampler = sampler or Sampler(UNGUIDED)

    def due(self, step: int) -> bool:
        """Whether optimizer step ``step`` samples: the steps are spread evenly."""
        return math.floor((step + 1) * self.fraction) > math.floor(step * self.fraction)

    def begin(self, transformer: VideoARTransformer, ids: Tensor, layout: Layout) -> OwnSamples:
        """Choose at random where the samples begin in clips of this layout.

        Args:
            transformer: The model in training.
            ids: ``(B, P)`` condition ids.
            layout: Place of every token; at least two latent frames.
        """
        last = max(1, layout.frames - self.frames - 1)
        first = int(torch.randint(1, last + 1, ()))
        sampled = range(first, min(first + self.frames, layout.frames))
        return OwnSamples(self.sampler, transformer, ids, sampled)


class OwnSamples(NamedTuple):
    """Shows the model samples of its own in ``frames``, and true bits elsewhere."""

    sampler: Sampler
    transformer: VideoARTransformer
    ids: Tensor
    frames: range

    def start(self, latent: Tensor, pyramid: Pyramid) -> ContextFn:
        """Sample; see :class:`modules.autoregression.corruption.ContextSource`."""
        layout, given = Layout(pyramid, self.frames.stop), latent[:, :, : self.frames.start]
        generators = [torch.Generator().manual_seed(seed) for seed in torch.randint(2**62, (len(latent),)).tolist()]
        made = list(self.sampler.frames(self.transformer, self.ids, layout, generators, given))

        def show(scale: int, bits: Tensor) -> Tensor:
            shown = bits.unflatten(0, (len(latent), -1)).clone()
            for frame in self.frames:
                shown[:, frame] = made[frame].bits[scale]
            return shown.flatten(0, 1)

        return show
