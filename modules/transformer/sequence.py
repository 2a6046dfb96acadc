"""Order of all tokens in the transformer: the condition, then the scales and the history block of every frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modules.geometry import Layout

# Tokens of a past frame that later frames see: those of all its scales (the paper), or one block with its complete feature.
History = Literal["all_scales", "last_scale"]


@dataclass(frozen=True)
class TokenSequence:
    """Blocks of tokens in the order of training; a block is a frame and a scale.

    The condition is block ``(-1, 0)``. With ``history="last_scale"`` (our decision; the paper has "all_scales") every frame except the
    last is followed by a *history block* ``(frame, K)``: its complete feature at full resolution, which later frames see instead of its
    scales. It sees the condition, earlier history blocks and itself, but not the scales of its frame, so that sampling can drop them.

    Args:
        layout: The video tokens that are predicted.
        prompt_length: Number of condition tokens ``P``.
        history: Tokens of a past frame that later frames see.
    """

    layout: Layout
    prompt_length: int
    history: History = "all_scales"

    @property
    def history_scale(self) -> int:
        """``K``, the scale index of history blocks."""
        return self.layout.pyramid.scales

    @property
    def history_tokens(self) -> int:
        """Number of tokens of a history block; 0 if there are no history blocks."""
        return self.layout.pyramid.areas[-1] if self.history == "last_scale" else 0

    @property
    def frame_tokens(self) -> int:
        """Number of tokens of a frame in a full pass, including its history block."""
        return self.layout.pyramid.tokens + self.history_tokens

    @property
    def past_tokens(self) -> int:
        """Number of tokens of a past frame that later frames see."""
        return self.history_tokens or self.layout.pyramid.tokens

    @property
    def tokens(self) -> int:
        """Number of tokens of a full pass, ``N``."""
        return self.prompt_length + self.layout.tokens + (self.layout.frames - 1) * self.history_tokens

    def max_cached_tokens(self, past: int) -> int:
        """Return the maximum number of tokens in a sampler's cache, for a frame that sees ``past`` past frames."""
        return self.prompt_length + past * self.past_tokens + self.layout.pyramid.tokens

    def blocks(self) -> dict[tuple[int, int], int]:
        """Return the frame and scale of every block, in order, with its number of tokens."""
        found = {(-1, 0): self.prompt_length}
        for frame in range(self.layout.frames):
            found |= {(frame, scale): area for scale, area in enumerate(self.layout.pyramid.areas)}
            if self.history_tokens and frame + 1 < self.layout.frames:
                found[frame, self.history_scale] = self.history_tokens
        return found

    def span(self, frame: int, scale: int) -> slice:
        """Return the slice with the tokens of a frame's scale, or of its history block."""
        areas = (*self.layout.pyramid.areas, self.history_tokens)
        start = self.prompt_length + frame * self.frame_tokens + sum(areas[:scale])
        return slice(start, start + areas[scale])

    def coordinates(self) -> Tensor:
        """Return ``(N, 4)`` int64: frame, scale, row, column of every token; condition token ``i`` has ``(-1, 0, i, i)``."""
        index = torch.arange(self.prompt_length)
        prompt = torch.stack([torch.full_like(index, -1), torch.zeros_like(index), index, index], dim=1)
        scales = self.layout.coordinates()
        if not self.history_tokens:
            return torch.cat([prompt, scales])
        past = scales[self.layout.block(0, self.history_scale - 1)].repeat(self.layout.frames - 1, 1, 1)
        past[..., 0], past[..., 1] = torch.arange(self.layout.frames - 1)[:, None], self.history_scale
        return torch.cat([prompt, self.interleave(scales[None], past[None])[0]])

    def predicted(self) -> Tensor:
        """Return ``(L,)`` int64: indices of the tokens of the layout, which are the predicted ones."""
        frame, scale, _, _ = self.coordinates().unbind(dim=1)
        return ((frame >= 0) & (scale < self.history_scale)).nonzero()[:, 0]

    def interleave(self, scales: Tensor, past: Tensor) -> Tensor:
        """Insert history blocks ``(B, t - 1, h * w, ...)`` after the scales of their frames; ``scales`` is ``(B, L, ...)``."""
        frames = scales.unflatten(1, (self.layout.frames, -1))
        return torch.cat([torch.cat([frames[:, :-1], past], dim=2).flatten(1, 2), frames[:, -1]], dim=1)
