"""Transformer to latent: the pyramid walked with sampled bits, frame after frame (paper, inference)."""

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
    """One latent frame as it was sampled.

    Attributes:
        complete: ``(B, d, h, w)`` the sum of all its scales.
        bits: ``(B, d, h_k, w_k)`` bool of every scale.
    """

    complete: Tensor
    bits: list[Tensor]


class Sampler:
    """How bits are drawn from the model.

    Args:
        guidance: Strength of classifier-free guidance over frames and scales.
        temperature: Divides the logits; below 1 the likelier bit is preferred, 0 always takes it.
        top_p: A bit whose unlikely value has a probability of at most ``1 - top_p`` always takes the likely one.

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
        """The latent frames of one video, each as soon as it is complete.

        Args:
            transformer: The model.
            ids: ``(B, P)`` condition ids.
            layout: Place of every token of the clip to make, the given frames included.
            generators: One per clip, on the CPU; a clip depends on its own only, not on its neighbours in the batch.
            prefix: ``(B, d, p, h, w)`` continuous latent of given frames, whose bits become the history.

        Yields:
            The given frames first.
        """
        run = SamplingRun(self, transformer, ids, layout, generators)
        given = [] if prefix is None else prefix.unbind(dim=2)
        for frame in range(layout.frames):
            yield run.next_frame(given[frame] if frame < len(given) else None)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Bits for logits and uniform numbers of the same shape: one draw per bit."""
        if self.temperature == 0.0:
            return logits > 0
        probability = torch.sigmoid(logits / self.temperature)
        probability = torch.where(probability >= self.top_p, 1.0, probability)
        probability = torch.where(probability <= 1.0 - self.top_p, 0.0, probability)
        return uniform < probability


class SamplingRun:
    """One video in the making: conditioned and unconditioned clips side by side in one batch, one cache of fixed size.

    A run without any guidance computes the conditioned clips alone. In a guided run both are computed even at a block whose strength is 1,
    as at the first scale of the paper's UCF-101 setting, and where frames are given: what comes later looks at the keys and values of
    both. At strength 1 the conditioned logits are taken as they are, bit for bit.

    Args:
        sampler: How bits are drawn.
        transformer: The model.
        ids: ``(B, P)`` condition ids.
        layout: The longest video of training, or a shorter one. The run has no end; see :meth:`VideoARTransformer.start_decoding`.
        generators: One per clip, on the CPU.
        sink: Whether the first frame stays visible for ever.
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
        """Change the condition for the frames to come: ``(B, P)`` ids."""
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
        """Guided logits ``(B, d, h_k, w_k)`` of one block."""
        logits = self.transformer.step(self._tokens(context), scale, self.decoding)
        if self.guided:
            conditioned, nothing = logits.chunk(2)
            logits = torch.lerp(nothing, conditioned, self._strength(self.decoding.frame, scale))
        return rearrange(logits, "b (h w) d -> b d h w", h=context.shape[-2])

    def _tokens(self, feature: Tensor) -> Tensor:
        """``(B, d, h, w)`` as the transformer takes it: ``(B, h * w, d)``, twice if guided."""
        tokens = rearrange(feature, "b d h w -> b (h w) d")
        return tokens.repeat(2, 1, 1) if self.guided else tokens

    def _strength(self, frame: int, scale: int) -> float:
        """Strength at a frame, which is that of the layout's end for all frames behind it."""
        frame = min(frame, self.layout.frames - 1)
        return self.sampler.guidance.strength(position(frame, self.layout.frames), position(scale, self.layout.pyramid.scales))

    def _is_guided(self) -> bool:
        """Without any guidance the unconditioned half is not computed at all."""
        frames, scales = range(self.layout.frames), range(self.layout.pyramid.scales)
        return any(self._strength(frame, scale) != 1.0 for frame in frames for scale in scales)

    def _uniform(self, logits: Tensor) -> Tensor:
        """Uniform numbers from every clip's own generator, so that a clip does not depend on its place in the batch."""
        draws = [torch.rand(logits.shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(draws).to(logits.device)
