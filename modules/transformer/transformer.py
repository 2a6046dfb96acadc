"""The LLaMA-like transformer that predicts the bits of a scale from everything coarser and earlier (paper 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.geometry import Layout
from modules.transformer.attention import Surroundings
from modules.transformer.block import Block, ModulatedBlock, modulate
from modules.transformer.cache import KVCache
from modules.transformer.condition import Condition, Prompt
from modules.transformer.masks import block_causal, hide_frames
from modules.transformer.rope import MultiScaleTemporalRope, prompt_positions, token_positions


class Modulation(NamedTuple):
    """What the condition does to the norms: scales, shifts and gates ``(B, 6, C)`` for the blocks, ``(B, 2, C)`` for the head."""

    blocks: Tensor
    head: Tensor


@dataclass
class Decoding:
    """A sampling run: the condition's modulation, computed once, and the cache."""

    modulation: Modulation | None
    cache: KVCache
    frames_held: Tensor


class VideoARTransformer(nn.Module):
    """Next-frame and next-scale transformer over bits.

    Args:
        bits: Bits per token ``d`` (given by the tokenizer).
        condition: What the video is conditioned on; called with the width.
        width: Width of the model, divisible by ``heads``.
        layers: Number of blocks.
        heads: Attention heads.
        window: How many past latent frames a frame sees, in training and in sampling; all if not given.
        adaptive_norm: "shared": the condition, besides its tokens, modulates all norms through one projection (our decision, for the
            paper's parameter counts); "none": it enters by its tokens only.
        most_scales: Size of the scale embedding's table; more than any pyramid has.
        initial_std: Standard deviation of the weights at the start.
        resize: How the sum so far is made smaller to be a block's context, in training and sampling: "area" averages (our decision),
            "bilinear" takes points, as Infinity's transformers were trained.

    Raises:
        ValueError: If the heads do not divide the width, a head cannot be split for the rotary axes, or the window is below 1.
    """

    def __init__(
        self,
        bits: int,
        condition: Callable[[int], Condition],
        width: int = 1536,
        layers: int = 24,
        heads: int = 12,
        window: int | None = None,
        adaptive_norm: Literal["shared", "none"] = "shared",
        most_scales: int = 16,
        initial_std: float = 0.02,
        resize: Literal["area", "bilinear"] = "area",
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"transformer width {width} is not divisible by {heads} heads")
        if window is not None and window < 1:
            raise ValueError(f"the window must be at least 1 frame, got {window}")
        self.heads, self.window = heads, window
        self.resize: Literal["area", "bilinear"] = resize
        self.rope = MultiScaleTemporalRope(width // heads)
        self.condition = condition(width)
        self.project = nn.Linear(bits, width)
        self.scale_embedding = nn.Embedding(most_scales, width)
        self.start = nn.Parameter(torch.zeros(width))
        modulated = adaptive_norm == "shared"
        self.adaptive = nn.Linear(width, 6 * width) if modulated else None
        self.blocks = nn.ModuleList((ModulatedBlock if modulated else Block)(width, heads, layer) for layer in range(layers))
        self.head_norm = nn.RMSNorm(width, eps=1e-6)
        self.head_adaptive = nn.Linear(width, 2 * width) if modulated else None
        self.head = nn.Linear(width, bits)
        self._initialise(initial_std)

    def forward(self, inputs: Tensor, layout: Layout, ids: Tensor, kept_frames: Tensor | None = None) -> Tensor:
        """Logits of all bits of a video at once (training).

        Args:
            inputs: ``(B, L, d)`` context of every token; that of the very first scale is replaced by the start embedding.
            layout: Place of every token.
            ids: ``(B, P)`` condition ids.
            kept_frames: ``(B, t, t)`` bool from a random frame mask, None to see all.

        Returns:
            ``(B, L, d)`` logits, float32.
        """
        prompt = self.condition(ids)
        places = layout.places().to(inputs.device)
        mask = block_causal(places, self.condition.length, self.window)
        if kept_frames is not None:
            mask = hide_frames(mask, kept_frames, places, self.condition.length)
        hidden = torch.cat([prompt.tokens, self._embed(inputs, places)], dim=1)
        modulation = self._modulation(prompt.pooled)
        around = Surroundings(*self.rope(self._positions(places)), mask=mask, modulation=modulation and modulation.blocks)
        hidden = self._blocks(hidden, around)
        return self._logits(hidden[:, self.condition.length :], modulation)

    def begin(self, prompt: Prompt, tokens: int) -> Decoding:
        """Start decoding up to ``tokens`` video tokens: puts the condition into a fresh cache."""
        length = self.condition.length
        head_dim = prompt.tokens.shape[-1] // self.heads
        cache = KVCache(len(self.blocks), length + tokens, (len(prompt.tokens), self.heads, head_dim), prompt.tokens)
        modulation = self._modulation(prompt.pooled)
        decoding = Decoding(modulation, cache, prompt.tokens.new_full((length,), -1, dtype=torch.int64))
        factors = self.rope(prompt_positions(length, prompt.tokens.device))
        self._blocks(prompt.tokens, Surroundings(*factors, mask=None, modulation=modulation and modulation.blocks, cache=cache))
        cache.advance(length)
        return decoding

    def step(self, inputs: Tensor, places: Tensor, decoding: Decoding) -> Tensor:
        """Logits of one block (all tokens of one scale of one frame), which then joins the cache.

        Args:
            inputs: ``(B, n, d)`` contexts.
            places: ``(n, 4)`` of the block's tokens.
            decoding: The run; changed.

        Returns:
            ``(B, n, d)`` logits, float32.
        """
        decoding.frames_held = torch.cat([decoding.frames_held, places[:, 0]])
        around = Surroundings(
            *self.rope(token_positions(places, self.condition.length)),
            mask=self._window_mask(places, decoding.frames_held),
            modulation=decoding.modulation and decoding.modulation.blocks,
            cache=decoding.cache,
        )
        hidden = self._blocks(self._embed(inputs, places), around)
        decoding.cache.advance(len(places))
        return self._logits(hidden, decoding.modulation)

    def _window_mask(self, places: Tensor, frames_held: Tensor) -> Tensor | None:
        if self.window is None:
            return None
        return ((frames_held < 0) | (places[0, 0] - frames_held <= self.window)).expand(len(places), -1)

    def _positions(self, places: Tensor) -> Tensor:
        length = self.condition.length
        return torch.cat([prompt_positions(length, places.device), token_positions(places, length)])

    def _embed(self, inputs: Tensor, places: Tensor) -> Tensor:
        """Contexts and their scale; the first scale of the first frame has no context and takes the start embedding."""
        opening = ((places[:, 0] == 0) & (places[:, 1] == 0))[:, None]
        return torch.where(opening, self.start, self.project(inputs)) + self.scale_embedding(places[:, 1])

    def _modulation(self, pooled: Tensor) -> Modulation | None:
        if self.adaptive is None or self.head_adaptive is None:
            return None
        blocks, head = self.adaptive(F.silu(pooled)), self.head_adaptive(F.silu(pooled))
        return Modulation(blocks.unflatten(-1, (6, -1)), head.unflatten(-1, (2, -1)))

    def _blocks(self, hidden: Tensor, around: Surroundings) -> Tensor:
        for block in self.blocks:
            hidden = block(hidden, around)
        return hidden

    def _logits(self, hidden: Tensor, modulation: Modulation | None) -> Tensor:
        hidden = self.head_norm(hidden)
        if modulation is not None:
            scale, shift = modulation.head[:, :, None].unbind(dim=1)
            hidden = modulate(hidden, scale, shift)
        return self.head(hidden).float()

    def _initialise(self, std: float) -> None:
        """Normal weights, outputs of residual branches smaller with depth, modulation and head near zero (our decision)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for name, parameter in self.blocks.named_parameters():
            if name.endswith("out.weight"):
                parameter.data.div_((2 * len(self.blocks)) ** 0.5)
        for modulation in (self.adaptive, self.head_adaptive):
            if modulation is not None:
                nn.init.zeros_(modulation.weight)
        nn.init.normal_(self.scale_embedding.weight, std=std)
        nn.init.normal_(self.start, std=std)
