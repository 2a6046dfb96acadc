"""LLaMA-like transformer that predicts the bits of a scale from coarser scales and earlier frames (paper 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Literal, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.geometry import Layout
from modules.transformer.attention.attention import AttentionFn, BlockContext, Dense
from modules.transformer.attention.flex import make_flex
from modules.transformer.attention.kv_cache import KVCache
from modules.transformer.attention.masks import dense
from modules.transformer.attention.precomputed import SequenceTensors, dense_attention, flex_attention, make_sequence_tensors
from modules.transformer.attention.random_frame_mask import hide_frames
from modules.transformer.block import Block, ModulatedBlock, Modulation, modulate
from modules.transformer.condition import Condition, Prompt
from modules.transformer.decoding.buffers import BufferPool, DecodingBuffers, Step, Steps
from modules.transformer.decoding.state import Decoding
from modules.transformer.execution import Execution
from modules.transformer.initialisation import initialise
from modules.transformer.rope import MultiScaleTemporalRope, Rope
from modules.transformer.sequence import History, TokenSequence

MAX_SCALES = 16  # rows of the scale embedding


class VideoARTransformer(nn.Module):
    """Next-frame and next-scale transformer over bits.

    Args:
        bits: Bits per token ``d`` (set by the tokenizer).
        condition: Creates the condition module; called with the width.
        width: Width of the model, divisible by ``heads``.
        layers: Number of blocks.
        heads: Attention heads.
        window: Number of past latent frames that a frame attends to, in training and sampling; None for all.
        adaptive_norm: "shared": one projection of the condition modulates all norms, in addition to the condition tokens (our decision,
            which matches the paper's parameter counts); "none": condition tokens only.
        rope: Creates the rotary position embedding; called with the head width. The paper's, or PlainRope for its ablation.
        history: Representation of past frames: "all_scales", the decoded tokens of all scales (the paper); "last_scale", one block
            with the complete feature at full resolution (our decision), which halves the cache approximately.
        resize: Downsampling of the partial sum to the context of a block, in training and sampling: "area" (our decision), or "bilinear"
            as in Infinity's training.
        execution: Attention kernel, checkpointing, CUDA graphs and precision; only precision affects results.

    Raises:
        ValueError: If ``heads`` does not divide ``width``, the head width does not fit the rotary axes, or ``window`` is below 1.
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
        self.scale_embedding = nn.Embedding(MAX_SCALES, width)
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
        self.buffer_pool = BufferPool()

    def forward(
        self, inputs: Tensor, layout: Layout, ids: Tensor, frame_mask: Tensor | None = None, complete: Tensor | None = None
    ) -> Tensor:
        """Return the logits of all bits of a video in one pass (training).

        Args:
            inputs: ``(B, L, d)`` context of every token; the first scale of frame 0 uses the start embedding instead.
            layout: Frame, scale, row and column of every token.
            ids: ``(B, P)`` condition ids.
            frame_mask: ``(B, t, t)`` bool of a random frame mask (True: visible); None to attend to all past frames.
            complete: ``(B, t, d, h, w)`` complete features of all frames; required by ``history="last_scale"``.

        Returns:
            ``(B, L, d)`` logits, float32.

        Raises:
            ValueError: If ``history="last_scale"`` and ``complete`` is missing.
        """
        check_scales(layout)
        sequence = TokenSequence(layout, self.condition.length, self.history)
        tensors = make_sequence_tensors(sequence, self.window, self.rope, inputs.device)
        attend = self._attend(sequence, tensors, frame_mask)
        prompt = self.condition(ids)
        modulation = self._modulation(prompt.pooled)
        contexts = self._with_history(inputs, complete, sequence)
        frame, scale, _, _ = tensors.coordinates[sequence.prompt_length :].unbind(dim=1)
        opening = ((frame == 0) & (scale == 0))[:, None]
        video = torch.where(opening, self.start, self._project(contexts)) + F.embedding(scale, self._scales(layout))
        hidden = torch.cat([prompt.tokens, video], dim=1)
        hidden = self._blocks(hidden, BlockContext(tensors.cosines, tensors.sines, attend, modulation and modulation.blocks))
        return self._logits(hidden.index_select(1, tensors.predicted), modulation)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Moving or converting the weights invalidates recorded steps.
        self.buffer_pool.clear()
        return super()._apply(fn, recurse)

    def cast_weights(self, dtype: torch.dtype) -> None:
        """Cast all weights for inference; float32 changes nothing. Training must not continue afterwards."""
        if dtype != torch.float32:
            self.to(dtype)

    def start_decoding(self, prompt: Prompt, layout: Layout, sink: bool = False) -> Decoding:
        """Start decoding a video with this condition.

        Args:
            prompt: Embedded condition.
            layout: Layout of the trained video length or shorter. Decoding may continue after its last frame, with as many visible past
                frames as that frame has.
            sink: Keep the first frame visible permanently.
        """
        check_scales(layout)
        past = min(layout.frames - 1, self.window or layout.frames - 1)
        sequence = TokenSequence(layout, prompt.tokens.shape[1], self.history)
        shape, record = (sequence, past, len(prompt.tokens), prompt.tokens.dtype), self.execution.recorder(prompt.tokens.device)
        buffers = self.buffer_pool.acquire(shape, record, lambda steps: self._new_buffers(sequence, past, prompt.tokens, steps))
        decoding = Decoding(sequence, self.rope, past, sink, buffers)
        self.set_condition(prompt, decoding)
        return decoding

    def set_condition(self, prompt: Prompt, decoding: Decoding) -> None:
        """Set the condition of the current and all following frames."""
        buffers, span = decoding.buffers, slice(0, prompt.tokens.shape[1])
        buffers.set_modulation(self._modulation(prompt.pooled))
        buffers.steps("condition", lambda tokens: self._blocks(tokens, buffers.block_context(span, buffers.prompt)), prompt.tokens)
        decoding.load_condition()

    def step(self, inputs: Tensor, scale: int, decoding: Decoding) -> Tensor:
        """Return the logits of one block (all tokens of one scale of the current frame) and append the block to the cache.

        Args:
            inputs: ``(B, n, d)`` contexts.
            scale: Scale index of the block.
            decoding: Decoding state, modified in place.

        Returns:
            ``(B, n, d)`` logits, float32.
        """
        sequence, buffers = decoding.sequence, decoding.buffers
        opening, span = decoding.frame == 0 and scale == 0, sequence.span(0, scale)

        # Refers to the buffers and not to the decoding state: a recording outlives the run.
        def logits(inputs: Tensor) -> Tensor:
            context = self.start.expand(*inputs.shape[:2], -1) if opening else self._project(inputs)
            hidden = context + self._scales(sequence.layout)[scale]
            return self._logits(self._blocks(hidden, buffers.block_context(span, buffers.cache)), buffers.modulation)

        return self._decode((scale, opening), logits, inputs, buffers)

    def commit_frame(self, complete: Tensor, decoding: Decoding) -> None:
        """Finish the current frame and advance to the next. A history block, if used, replaces the scales of the frame.

        Args:
            complete: ``(B, h * w, d)`` complete feature of the frame.
            decoding: Decoding state, modified in place.
        """
        if self.history == "last_scale":
            decoding.drop_scales()
            sequence, buffers = decoding.sequence, decoding.buffers
            block, span = sequence.history_scale, sequence.span(0, sequence.history_scale)

            def append_history(complete: Tensor) -> Tensor:
                hidden = self._project(complete) + self._scales(sequence.layout)[block]
                return self._blocks(hidden, buffers.block_context(span, buffers.cache))

            self._decode((block, False), append_history, complete, buffers)
        decoding.next_frame()

    def _decode(self, kind: Hashable, step: Step, inputs: Tensor, buffers: DecodingBuffers) -> Tensor:
        """Run a step whose tokens attend to the whole cache and are appended to it."""
        result = buffers.steps((kind, buffers.cache.length), step, inputs)
        buffers.cache.advance(inputs.shape[1])
        return result

    def _new_buffers(self, sequence: TokenSequence, past: int, like: Tensor, steps: Steps) -> DecodingBuffers:
        """Allocate buffers for ``past`` visible frames and condition tokens shaped like ``like`` ``(B, P, C)``."""
        clips, length, width = like.shape
        shape = (clips, self.heads, width // self.heads)
        cache, prompt = (KVCache(len(self.blocks), tokens, shape, like) for tokens in (sequence.max_cached_tokens(past), length))
        factors = like.new_empty(length + sequence.frame_tokens, width // self.heads // 2, dtype=torch.float32)
        modulation = Modulation(like.new_empty(clips, 6, width), like.new_empty(clips, 2, width)) if self.adaptive else None
        return DecodingBuffers(cache, prompt, factors, modulation, steps)

    def _project(self, contexts: Tensor) -> Tensor:
        """``(B, n, d)`` to ``(B, n, C)``, in the dtype of the weights."""
        return self.project(contexts.to(self.project.weight.dtype))

    def _attend(self, sequence: TokenSequence, tensors: SequenceTensors, frame_mask: Tensor | None) -> AttentionFn:
        """Return the attention function of a full pass."""
        device = tensors.block.device
        flex = self.execution.flex(device, sequence.tokens)
        if frame_mask is None:
            return flex_attention(sequence, self.window, device) if flex else dense_attention(sequence, self.window, device)
        visible = hide_frames(tensors.visible, frame_mask, tensors.frame)
        return make_flex(visible, tensors.block) if flex else Dense(dense(visible, tensors.block))

    def _with_history(self, inputs: Tensor, complete: Tensor | None, sequence: TokenSequence) -> Tensor:
        """Return the contexts of all video tokens, scales and history blocks interleaved."""
        if not sequence.history_tokens:
            return inputs
        if complete is None:
            raise ValueError(f"history {self.history} needs the complete features of {sequence.layout.frames} frames, got none")
        return sequence.interleave(inputs, rearrange(complete[:, :-1], "b t d h w -> b t (h w) d"))

    def _scales(self, layout: Layout) -> Tensor:
        """Return the embeddings of all scales ``(K, C)``, followed by that of the history block if used ``(K + 1, C)``."""
        scales = self.scale_embedding.weight[: layout.pyramid.scales]
        return scales if self.history_embedding is None else torch.cat([scales, self.history_embedding[None]])

    def _modulation(self, pooled: Tensor) -> Modulation | None:
        if self.adaptive is None or self.head_adaptive is None:
            return None
        pooled = F.silu(pooled)
        return Modulation(self.adaptive(pooled).unflatten(-1, (6, -1)), self.head_adaptive(pooled).unflatten(-1, (2, -1)))

    def _blocks(self, hidden: Tensor, context: BlockContext) -> Tensor:
        activation_checkpointing = self.execution.activation_checkpointing and context.cache is None and torch.is_grad_enabled()
        for block in self.blocks:
            hidden = checkpoint(block, hidden, context, use_reentrant=False) if activation_checkpointing else block(hidden, context)
        return hidden

    def _logits(self, hidden: Tensor, modulation: Modulation | None) -> Tensor:
        hidden = self.head_norm(hidden)
        if modulation is not None:
            scale, shift = modulation.head[:, :, None].unbind(dim=1)
            hidden = modulate(hidden, scale, shift)
        return self.head(hidden).float()


def check_scales(layout: Layout) -> None:
    """Raise ``ValueError`` if a latent grid has more scales than the transformer has scale embeddings."""
    if layout.pyramid.scales > MAX_SCALES:
        height, width = layout.pyramid.sizes[-1]
        raise ValueError(
            f"a latent grid of {height} x {width} has {layout.pyramid.scales} scales, and the transformer embeds {MAX_SCALES}: use smaller "
            "clips, or a tokenizer with a larger spatial factor"
        )
