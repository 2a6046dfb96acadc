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
from modules.tokenizer.pyramid import down, walk
from modules.transformer import VideoARTransformer


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
        """Latent frames as soon as each is complete.

        Args:
            transformer: The model.
            ids: ``(B, P)`` condition ids.
            layout: Place of every token of the clip to make, the given frames included.
            generators: One per clip, on the CPU; a clip depends on its own only, not on its neighbours in the batch.
            prefix: ``(B, d, p, h, w)`` continuous latent of given frames, whose bits become the history.

        Yields:
            The given frames first.
        """
        run = _Run(self, transformer, ids, layout, generators)
        given = 0 if prefix is None else prefix.shape[2]
        for frame in range(layout.frames):
            yield run.walk_frame(frame, prefix[:, :, frame] if prefix is not None and frame < given else None)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """Bits for logits and uniform numbers of the same shape: one draw per bit."""
        if self.temperature == 0.0:
            return logits > 0
        probability = torch.sigmoid(logits / self.temperature)
        probability = torch.where(probability >= self.top_p, 1.0, probability)
        probability = torch.where(probability <= 1.0 - self.top_p, 0.0, probability)
        return uniform < probability


class _Run:
    """One sampling run: conditioned and unconditioned clips side by side in one batch, one cache."""

    def __init__(
        self,
        sampler: Sampler,
        transformer: VideoARTransformer,
        ids: Tensor,
        layout: Layout,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.sampler, self.transformer, self.layout = sampler, transformer, layout
        self.clips, self.generators = len(ids), generators
        self.guided = self._is_guided()
        nothing = transformer.condition.nothing(self.clips, ids.device)
        prompt = transformer.condition(torch.cat([ids, nothing]) if self.guided else ids)
        self.decoding = transformer.begin(prompt, layout)
        height, width = layout.pyramid.sizes[-1]
        bits = transformer.head.out_features
        self.complete = prompt.tokens.new_zeros(self.clips, bits, height, width, dtype=torch.float32)

    def walk_frame(self, frame: int, given: Tensor | None) -> LatentFrame:
        """Decode one latent frame, or feed a given one, ``(B, d, h, w)``."""
        pyramid, before, resize = self.layout.pyramid, self.complete, self.transformer.resize
        chosen: list[Tensor] = []
        if frame > 0:
            self.transformer.remember(self._tokens(before), frame - 1, self.decoding)

        def choose(scale: int, context: Tensor, partial: Tensor) -> Tensor:
            context = down(before, pyramid.sizes[0], resize) if scale == 0 else context
            logits = self._logits(frame, scale, context)
            if given is None:
                chosen.append(self.sampler.draw(logits, self._uniform(logits)))
            else:
                chosen.append(to_bits(down(given.float() - partial, pyramid.sizes[scale])))
            return to_codes(chosen[-1])

        self.complete = walk(pyramid, choose, torch.zeros_like(before), resize)
        return LatentFrame(self.complete, chosen)

    def _logits(self, frame: int, scale: int, context: Tensor) -> Tensor:
        """Guided logits ``(B, d, h_k, w_k)`` of one block."""
        logits = self.transformer.step(self._tokens(context), frame, scale, self.decoding)
        if self.guided:
            conditioned, nothing = logits.chunk(2)
            logits = torch.lerp(nothing, conditioned, self._strength(frame, scale))
        return rearrange(logits, "b (h w) d -> b d h w", h=context.shape[-2])

    def _tokens(self, feature: Tensor) -> Tensor:
        """``(B, d, h, w)`` as the transformer takes it: ``(B, h * w, d)``, twice if guided."""
        tokens = rearrange(feature, "b d h w -> b (h w) d")
        return tokens.repeat(2, 1, 1) if self.guided else tokens

    def _strength(self, frame: int, scale: int) -> float:
        pyramid = self.layout.pyramid
        return self.sampler.guidance.strength(position(frame, self.layout.frames), position(scale, pyramid.scales))

    def _is_guided(self) -> bool:
        """Without any guidance the unconditioned half is not computed at all."""
        frames, scales = range(self.layout.frames), range(self.layout.pyramid.scales)
        return any(self._strength(frame, scale) != 1.0 for frame in frames for scale in scales)

    def _uniform(self, logits: Tensor) -> Tensor:
        """Uniform numbers from every clip's own generator, so that a clip does not depend on its place in the batch."""
        draws = [torch.rand(logits.shape[1:], generator=generator) for generator in self.generators]
        return torch.stack(draws).to(logits.device)
