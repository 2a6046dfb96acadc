"""The LLaMA-like transformer that predicts the bits of a scale from everything coarser and earlier (paper 4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.geometry import Layout
from modules.transformer.attention import Attend, Dense, Surroundings
from modules.transformer.block import Block, ModulatedBlock, Modulation, modulate
from modules.transformer.cache import KVCache
from modules.transformer.condition import Condition, Prompt
from modules.transformer.decoding import Decoding
from modules.transformer.execution import Execution
from modules.transformer.flex import make_flex
from modules.transformer.initial import initialise
from modules.transformer.masks import dense, hide_frames
from modules.transformer.plan import Plan, dense_attention, flex_attention, make_plan
from modules.transformer.rope import MultiScaleTemporalRope, Rope
from modules.transformer.sequence import History, TokenSequence

MOST_SCALES = 16  # rows of the scale embedding's table


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
        rope: Positions of the tokens; called with the width of a head. The paper's, or PlainRope for its ablation.
        history: What later frames see of a past one: "all_scales" its tokens as they were decoded (the paper), "last_scale" one block with
            its complete feature at full resolution (our decision), which takes about half the cache.
        resize: How the sum so far is made smaller to be a block's context, in training and sampling: "area" averages (our decision),
            "bilinear" takes points, as Infinity's transformers were trained.
        execution: How full passes are computed; changes no result.

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
        rope: Callable[[int], Rope] = MultiScaleTemporalRope,
        history: History = "all_scales",
        resize: Literal["area", "bilinear"] = "area",
        execution: Execution = Execution(),  # noqa: B008
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"transformer width {width} is not divisible by {heads} heads")
        if window is not None and window < 1:
            raise ValueError(f"the window must be at least 1 frame, got {window}")
        self.heads, self.window = heads, window
        self.resize: Literal["area", "bilinear"] = resize
        self.history: History = history
        self.execution = execution
        self.rope = rope(width // heads)
        self.condition = condition(width)
        self.project = nn.Linear(bits, width)
        self.scale_embedding = nn.Embedding(MOST_SCALES, width)
        self.start = nn.Parameter(torch.zeros(width))
        self.history_embedding = nn.Parameter(torch.zeros(width)) if history == "last_scale" else None
        modulated = adaptive_norm == "shared"
        self.adaptive = nn.Linear(width, 6 * width) if modulated else None
        self.blocks = nn.ModuleList((ModulatedBlock if modulated else Block)(width, heads, layer) for layer in range(layers))
        self.head_norm = nn.RMSNorm(width, eps=1e-6)
        self.head_adaptive = nn.Linear(width, 2 * width) if modulated else None
        self.head = nn.Linear(width, bits)
        initialise(self, layers)
        nn.init.normal_(self.scale_embedding.weight, std=0.02)
        nn.init.normal_(self.start, std=0.02)
        if self.history_embedding is not None:
            nn.init.normal_(self.history_embedding, std=0.02)

    def forward(
        self, inputs: Tensor, layout: Layout, ids: Tensor, kept_frames: Tensor | None = None, complete: Tensor | None = None
    ) -> Tensor:
        """Logits of all bits of a video at once (training).

        Args:
            inputs: ``(B, L, d)`` context of every token; that of the very first scale is replaced by the start embedding.
            layout: Place of every token.
            ids: ``(B, P)`` condition ids.
            kept_frames: ``(B, t, t)`` bool from a random frame mask, None to see all.
            complete: ``(B, t, d, h, w)`` complete features of all frames, for ``history="last_scale"`` only.

        Returns:
            ``(B, L, d)`` logits, float32.

        Raises:
            ValueError: If the history needs complete features and there are none.
        """
        sequence = TokenSequence(layout, self.condition.length, self.history)
        plan = make_plan(sequence, self.window, self.rope, inputs.device)
        attend = self._attend(sequence, plan, kept_frames)
        prompt = self.condition(ids)
        modulation = self._modulation(prompt.pooled)
        contexts = self._with_history(inputs, complete, sequence)
        hidden = torch.cat([prompt.tokens, self._embed(contexts, plan.places[sequence.prompt_length :], layout)], dim=1)
        hidden = self._blocks(hidden, Surroundings(plan.cosines, plan.sines, attend, modulation and modulation.blocks))
        return self._logits(hidden.index_select(1, plan.predicted), modulation)

    def begin(self, prompt: Prompt, layout: Layout) -> Decoding:
        """Start decoding a video of this layout: puts the condition into a fresh cache."""
        clips, length, width = prompt.tokens.shape
        sequence = TokenSequence(layout, length, self.history)
        plan = make_plan(sequence, self.window, self.rope, prompt.tokens.device)
        cache = KVCache(len(self.blocks), sequence.most_cached, (clips, self.heads, width // self.heads), prompt.tokens)
        decoding = Decoding(sequence, plan, self._modulation(prompt.pooled), cache, held=plan.block[:0])
        self._decode(prompt.tokens, slice(0, length), decoding)
        return decoding

    def step(self, inputs: Tensor, frame: int, scale: int, decoding: Decoding) -> Tensor:
        """Logits of one block (all tokens of one scale of one frame), which then joins the cache.

        Args:
            inputs: ``(B, n, d)`` contexts.
            frame: The block's frame.
            scale: The block's scale.
            decoding: The run; changed.

        Returns:
            ``(B, n, d)`` logits, float32.
        """
        span = decoding.sequence.span(frame, scale)
        hidden = self._embed(inputs, decoding.plan.places[span], decoding.sequence.layout)
        return self._logits(self._decode(hidden, span, decoding), decoding.modulation)

    def remember(self, complete: Tensor, frame: int, decoding: Decoding) -> None:
        """Tell a finished frame to the later ones: its history block takes the place of its scales, which otherwise stay.

        Args:
            complete: ``(B, h * w, d)`` the frame's complete feature.
            frame: The frame, not the last one.
            decoding: The run; changed.
        """
        if self.history == "all_scales":
            return
        decoding.drop_frame(frame)
        span = decoding.sequence.span(frame, decoding.sequence.history_scale)
        self._decode(self._embed(complete, decoding.plan.places[span], decoding.sequence.layout), span, decoding)

    def _decode(self, hidden: Tensor, span: slice, decoding: Decoding) -> Tensor:
        """Run one block's tokens against the cache, which they join."""
        # Without a window all that is held may be seen, and no mask is faster.
        visible = decoding.join(span)
        attend = Dense(None if self.window is None else visible.expand(hidden.shape[1], -1))
        plan, modulation = decoding.plan, decoding.modulation
        around = Surroundings(plan.cosines[span], plan.sines[span], attend, modulation and modulation.blocks, decoding.cache)
        hidden = self._blocks(hidden, around)
        decoding.cache.advance(hidden.shape[1])
        return hidden

    def _attend(self, sequence: TokenSequence, plan: Plan, kept_frames: Tensor | None) -> Attend:
        """Attention of a full pass."""
        device = plan.block.device
        flex = self.execution.flex(device)
        if kept_frames is None:
            return (flex_attention if flex else dense_attention)(sequence, self.window, device)
        visible = hide_frames(plan.visible, kept_frames, plan.frame)
        return make_flex(visible, plan.block) if flex else Dense(dense(visible, plan.block))

    def _with_history(self, inputs: Tensor, complete: Tensor | None, sequence: TokenSequence) -> Tensor:
        """Contexts of all video tokens: those of the scales, and between them those of the history blocks."""
        if not sequence.history_tokens:
            return inputs
        if complete is None:
            raise ValueError(f"history {self.history} needs the complete features of {sequence.layout.frames} frames, got none")
        return sequence.interleave(inputs, rearrange(complete[:, :-1], "b t d h w -> b t (h w) d"))

    def _embed(self, contexts: Tensor, places: Tensor, layout: Layout) -> Tensor:
        """Contexts and their scale; the first scale of the first frame has no context and takes the start embedding."""
        opening = ((places[:, 0] == 0) & (places[:, 1] == 0))[:, None]
        scales = self.scale_embedding.weight
        if self.history_embedding is not None:
            scales = torch.cat([scales[: layout.pyramid.scales], self.history_embedding[None]])
        return torch.where(opening, self.start, self.project(contexts)) + F.embedding(places[:, 1], scales)

    def _modulation(self, pooled: Tensor) -> Modulation | None:
        if self.adaptive is None or self.head_adaptive is None:
            return None
        pooled = F.silu(pooled)
        return Modulation(self.adaptive(pooled).unflatten(-1, (6, -1)), self.head_adaptive(pooled).unflatten(-1, (2, -1)))

    def _blocks(self, hidden: Tensor, around: Surroundings) -> Tensor:
        recompute = self.execution.recompute and around.cache is None and torch.is_grad_enabled()
        for block in self.blocks:
            hidden = checkpoint(block, hidden, around, use_reentrant=False) if recompute else block(hidden, around)
        return hidden

    def _logits(self, hidden: Tensor, modulation: Modulation | None) -> Tensor:
        hidden = self.head_norm(hidden)
        if modulation is not None:
            scale, shift = modulation.head[:, :, None].unbind(dim=1)
            hidden = modulate(hidden, scale, shift)
        return self.head(hidden).float()
