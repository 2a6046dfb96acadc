"""Sampling of latent frames from the transformer, frame by frame and scale by scale (paper, inference)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from modules.autoregression.guidance import Guidance, position
from modules.geometry import Layout
from modules.tokenizer.bsq import to_bits, to_codes
from modules.tokenizer.pyramid import coarse_to_fine, downsample
from modules.transformer import VideoARTransformer
from modules.transformer.condition import Prompt


class LatentFrame(NamedTuple):
    """One sampled latent frame.

    Attributes:
        complete: ``(B, d, h, w)`` sum of all its scales.
        bits: ``(B, d, h_k, w_k)`` bool of every scale.
    """

    complete: Tensor
    bits: list[Tensor]


class Sampler:
    """Bit sampler with classifier-free guidance, temperature and top-p.

    Args:
        guidance: Strength of classifier-free guidance over frames and scales.
        temperature: Divisor of the logits; below 1 favours the more likely value of a bit, 0 always takes it.
        top_p: A bit whose less likely value has a probability of at most ``1 - top_p`` always takes the more likely one.

    Raises:
        ValueError: For a negative temperature or a ``top_p`` outside (0.5, 1].
    """

    def __init__(self, guidance: Guidance = Guidance(), temperature: float = 1.0, top_p: float = 1.0) -> None:  # noqa: B008
        if temperature < 0.0:
            raise ValueError(f"temperature must not be negative, got {temperature}")
        if not 0.5 < top_p <= 1.0:
            raise ValueError(f"top_p must be above 0.5 and at most 1, got {top_p}")
        self.guidance, self.temperature, self.top_p = guidance, temperature, top_p

    @torch.no_grad()
    def frames(
        self,
        transformer: VideoARTransformer,
        ids: Tensor,
        layout: Layout,
        generators: Sequence[torch.Generator],
        prefix: Tensor | None = None,
    ) -> Iterator[LatentFrame]:
        """Yield the latent frames of a batch of videos, each as soon as it is complete.

        Args:
            transformer: The model.
            ids: ``(B, P)`` condition ids.
            layout: Layout of the clip to generate, including the given frames.
            generators: One per clip, on the CPU; a clip depends on its own generator only, not on the rest of the batch.
            prefix: ``(B, d, p, h, w)`` continuous latent of given frames, whose bits become the history.

        Yields:
            Latent frames, the given ones first.
        """
        run = SamplingRun(self, transformer, ids, layout, generators)
        given = [] if prefix is None else prefix.unbind(dim=2)
        for frame in range(layout.frames):
            yield run.next_frame(given[frame] if frame < len(given) else None)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Return bits for logits and uniform random numbers of the same shape: one draw per bit."""
        if self.temperature == 0.0:
            return logits > 0
        probability = torch.sigmoid(logits / self.temperature)
        probability = torch.where(probability >= self.top_p, 1.0, probability)
        probability = torch.where(probability <= 1.0 - self.top_p, 0.0, probability)
        return uniform < probability


class SamplingRun:
    """Sampling of one batch of videos: conditioned and unconditioned clips in one batch, one cache of fixed size.

    A run without guidance computes only the conditioned clips. A guided run computes both, even for blocks with strength 1, as at the
    first scale of the paper's UCF-101 setting, and for given frames, because later blocks use the keys and values of both. At strength 1
    the conditioned logits are used unchanged, bit for bit.

    Args:
        sampler: Bit sampler.
        transformer: The model.
        ids: ``(B, P)`` condition ids.
        layout: The longest video of training, or a shorter one. The run has no end; see :meth:`VideoARTransformer.start_decoding`.
        generators: One per clip, on the CPU.
        sink: Keep the first frame visible in all later frames.
    """

    def __init__(
        self,
        sampler: Sampler,
        transformer: VideoARTransformer,
        ids: Tensor,
        layout: Layout,
        generators: Sequence[torch.Generator],
        sink: bool = False,
    ) -> None:
        self.sampler, self.transformer, self.layout = sampler, transformer, layout
        self.clips, self.generators = len(ids), generators
        self.guided = self._is_guided()
        with torch.no_grad():
            self.decoding = transformer.start_decoding(self._prompt(ids), layout, sink)
        height, width = layout.pyramid.sizes[-1]
        self.start = ids.new_zeros(self.clips, transformer.head.out_features, height, width, dtype=torch.float32)
        self.complete: Tensor | None = None

    @torch.no_grad()
    def set_condition(self, ids: Tensor) -> None:
        """Change the condition of all later frames to ``(B, P)`` ids."""
        self.transformer.set_condition(self._prompt(ids), self.decoding)

    @torch.no_grad()
    def next_frame(self, given: Tensor | None = None) -> LatentFrame:
        """Sample the next latent frame, or feed a given one, ``(B, d, h, w)``."""
        pyramid, resize = self.layout.pyramid, self.transformer.resize
        before = self.start if self.complete is None else self.complete
        if self.complete is not None:
            self.transformer.commit_frame(self._tokens(self.complete), self.decoding)
        chosen: list[Tensor] = []

        def choose(scale: int, context: Tensor, partial: Tensor) -> Tensor:
            context = downsample(before, pyramid.sizes[0], resize) if scale == 0 else context
            logits = self._logits(scale, context)
            if given is None:
                chosen.append(self.sampler.draw(logits, self._uniform(logits)))
            else:
                chosen.append(to_bits(downsample(given.float() - partial, pyramid.sizes[scale])))
            return to_codes(chosen[-1])

        self.complete = coarse_to_fine(pyramid, choose, self.start, resize)
        return LatentFrame(self.complete, chosen)

    def _prompt(self, ids: Tensor) -> Prompt:
        condition = self.transformer.condition
        return condition(torch.cat([ids, condition.nothing(self.clips, ids.device)]) if self.guided else ids)

    def _logits(self, scale: int, context: Tensor) -> Tensor:
        """Return the guided logits ``(B, d, h_k, w_k)`` of one block."""
        logits = self.transformer.step(self._tokens(context), scale, self.decoding)
        if self.guided:
            conditioned, nothing = logits.chunk(2)
            logits = torch.lerp(nothing, conditioned, self._strength(self.decoding.frame, scale))
        return rearrange(logits, "b (h w) d -> b d h w", h=context.shape[-2])

    def _tokens(self, feature: Tensor) -> Tensor:
        """Return ``(B, d, h, w)`` as transformer input ``(B, h * w, d)``, with the batch repeated twice if guided."""
        tokens = rearrange(feature, "b d h w -> b (h w) d")
        return tokens.repeat(2, 1, 1) if self.guided else tokens

    def _strength(self, frame: int, scale: int) -> float:
        """Return the guidance strength of a block; frames beyond the layout have that of its last frame."""
        frame = min(frame, self.layout.frames - 1)
        return self.sampler.guidance.strength(position(frame, self.layout.frames), position(scale, self.layout.pyramid.scales))

    def _is_guided(self) -> bool:
        """True if any block is guided; otherwise the unconditioned half is not computed."""
        frames, scales = range(self.layout.frames), range(self.layout.pyramid.scales)
        return any(self._strength(frame, scale) != 1.0 for frame in frames for scale in scales)

    def _uniform(self, logits: Tensor) -> Tensor:
        """Return uniform random numbers from each clip's own generator, so that a clip does not depend on its position in the batch."""
        draws = [torch.rand(logits.shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(draws).to(logits.device)
