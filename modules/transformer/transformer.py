"""The LLaMA-like transformer that predicts the bits of a scale from everything coarser and earlier (paper 4.2)."""

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
from modules.transformer.attention.masks import dense, hide_frames
from modules.transformer.attention.precomputed import SequenceTensors, dense_attention, flex_attention, make_sequence_tensors
from modules.transformer.block import Block, ModulatedBlock, Modulation, modulate
from modules.transformer.condition import Condition, Prompt
from modules.transformer.decoding.buffers import Step, Steps, Workspace, Workspaces
from modules.transformer.decoding.precision import Numbers, choose, to_int8
from modules.transformer.decoding.state import Decoding
from modules.transformer.execution import Execution
from modules.transformer.initialisation import initialise
from modules.transformer.rope import MultiScaleTemporalRope, Rope
from modules.transformer.sequence import History, TokenSequence

MAX_SCALES = 16  # rows of the scale embedding's table


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
        execution: How passes and steps are computed; only its precision changes results.

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
        self.workspaces = Workspaces()

    def forward(
        self, inputs: Tensor, layout: Layout, ids: Tensor, frame_mask: Tensor | None = None, complete: Tensor | None = None
    ) -> Tensor:
        """Logits of all bits of a video at once (training).

        Args:
            inputs: ``(B, L, d)`` context of every token; that of the very first scale is replaced by the start embedding.
            layout: Place of every token.
            ids: ``(B, P)`` condition ids.
            frame_mask: ``(B, t, t)`` bool from a random frame mask, None to see all.
            complete: ``(B, t, d, h, w)`` complete features of all frames, for ``history="last_scale"`` only.

        Returns:
            ``(B, L, d)`` logits, float32.

        Raises:
            ValueError: If the history needs complete features and there are none.
        """
        sequence = TokenSequence(layout, self.condition.length, self.history)
        plan = make_sequence_tensors(sequence, self.window, self.rope, inputs.device)
        attend = self._attend(sequence, plan, frame_mask)
        prompt = self.condition(ids)
        modulation = self._modulation(prompt.pooled)
        contexts = self._with_history(inputs, complete, sequence)
        frame, scale, _, _ = plan.places[sequence.prompt_length :].unbind(dim=1)
        opening = ((frame == 0) & (scale == 0))[:, None]
        video = torch.where(opening, self.start, self._project(contexts)) + F.embedding(scale, self._scales(layout))
        hidden = torch.cat([prompt.tokens, video], dim=1)
        hidden = self._blocks(hidden, BlockContext(plan.cosines, plan.sines, attend, modulation and modulation.blocks))
        return self._logits(hidden.index_select(1, plan.predicted), modulation)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Whatever moves or converts the weights."""
        self.workspaces.drop()
        return super()._apply(fn, recurse)

    def numbers(self) -> Numbers:
        """What ``execution.precision`` comes down to on this device; "auto" and "int8" try a product out on a CPU."""
        layer = next(module for module in self.blocks.modules() if isinstance(module, nn.Linear))
        return choose(self.execution.precision, layer)

    def hold(self, numbers: Numbers) -> None:
        """Convert the weights for making videos; training is over then. float32 changes nothing."""
        if numbers.dtype != torch.float32:
            self.to(numbers.dtype)
        if numbers.int8:
            self.workspaces.drop()
            to_int8(self.blocks)

    def start_decoding(self, prompt: Prompt, layout: Layout, sink: bool = False) -> Decoding:
        """Start decoding a video with this condition.

        Args:
            prompt: The condition.
            layout: The longest video of training, or a shorter one. The run may go on after its last frame: a frame then sees as many
                past ones as the last frame of the layout does.
            sink: Whether the first frame stays visible for ever.
        """
        past = min(layout.frames - 1, self.window or layout.frames - 1)
        sequence = TokenSequence(layout, prompt.tokens.shape[1], self.history)
        shape, record = (sequence, past, len(prompt.tokens), prompt.tokens.dtype), self.execution.recorder(prompt.tokens.device)
        space = self.workspaces.lend(shape, record, lambda steps: self._workspace(sequence, past, prompt.tokens, steps))
        decoding = Decoding(sequence, self.rope, past, sink, space)
        self.set_condition(prompt, decoding)
        return decoding

    def set_condition(self, prompt: Prompt, decoding: Decoding) -> None:
        """Give a run its condition, at its start or for all frames from the current one on."""
        space, span = decoding.space, slice(0, prompt.tokens.shape[1])
        space.modulate(self._modulation(prompt.pooled))
        space.steps("condition", lambda tokens: self._blocks(tokens, space.around(span, space.prompt)), prompt.tokens)
        decoding.take_prompt()

    def step(self, inputs: Tensor, scale: int, decoding: Decoding) -> Tensor:
        """Logits of one block (all tokens of one scale of the current frame), which then joins the cache.

        Args:
            inputs: ``(B, n, d)`` contexts.
            scale: The block's scale.
            decoding: The run; changed.

        Returns:
            ``(B, n, d)`` logits, float32.
        """
        sequence, space = decoding.sequence, decoding.space
        opening, span = decoding.frame == 0 and scale == 0, sequence.span(0, scale)

        # Not of the run but of its workspace: a recording outlives the run.
        def logits(inputs: Tensor) -> Tensor:
            context = self.start.expand(*inputs.shape[:2], -1) if opening else self._project(inputs)
            hidden = context + self._scales(sequence.layout)[scale]
            return self._logits(self._blocks(hidden, space.around(span, space.cache)), space.modulation)

        return self._decode((scale, opening), logits, inputs, space)

    def commit_frame(self, complete: Tensor, decoding: Decoding) -> None:
        """Finish the current frame and go on to the next; with a history block, it takes the place of the frame's scales.

        Args:
            complete: ``(B, h * w, d)`` the frame's complete feature.
            decoding: The run; changed.
        """
        if self.history == "last_scale":
            decoding.drop_scales()
            sequence, space = decoding.sequence, decoding.space
            block, span = sequence.history_scale, sequence.span(0, sequence.history_scale)

            def keep(complete: Tensor) -> Tensor:
                hidden = self._project(complete) + self._scales(sequence.layout)[block]
                return self._blocks(hidden, space.around(span, space.cache))

            self._decode((block, False), keep, complete, space)
        decoding.next_frame()

    def _decode(self, kind: Hashable, step: Step, inputs: Tensor, space: Workspace) -> Tensor:
        """Do a step whose tokens see all of the cache and join it."""
        result = space.steps((kind, space.cache.length), step, inputs)
        space.cache.advance(inputs.shape[1])
        return result

    def _workspace(self, sequence: TokenSequence, past: int, like: Tensor, steps: Steps) -> Workspace:
        """For runs whose frames see ``past`` frames, and conditions like ``(B, P, C)``."""
        clips, length, width = like.shape
        shape = (clips, self.heads, width // self.heads)
        cache, prompt = (KVCache(len(self.blocks), tokens, shape, like) for tokens in (sequence.max_cached_tokens(past), length))
        factors = like.new_empty(length + sequence.frame_tokens, width // self.heads // 2, dtype=torch.float32)
        modulation = Modulation(like.new_empty(clips, 6, width), like.new_empty(clips, 2, width)) if self.adaptive else None
        return Workspace(cache, prompt, factors, modulation, steps)

    def _project(self, contexts: Tensor) -> Tensor:
        """``(B, n, d)`` to ``(B, n, C)``, in the numbers of the weights."""
        return self.project(contexts.to(self.project.weight.dtype))

    def _attend(self, sequence: TokenSequence, plan: SequenceTensors, frame_mask: Tensor | None) -> AttentionFn:
        """Attention of a full pass."""
        device = plan.block.device
        flex = self.execution.flex(device, sequence.tokens)
        if frame_mask is None:
            return (flex_attention if flex else dense_attention)(sequence, self.window, device)
        visible = hide_frames(plan.visible, frame_mask, plan.frame)
        return make_flex(visible, plan.block) if flex else Dense(dense(visible, plan.block))

    def _with_history(self, inputs: Tensor, complete: Tensor | None, sequence: TokenSequence) -> Tensor:
        """Contexts of all video tokens: those of the scales, and between them those of the history blocks."""
        if not sequence.history_tokens:
            return inputs
        if complete is None:
            raise ValueError(f"history {self.history} needs the complete features of {sequence.layout.frames} frames, got none")
        return sequence.interleave(inputs, rearrange(complete[:, :-1], "b t d h w -> b t (h w) d"))

    def _scales(self, layout: Layout) -> Tensor:
        """Embeddings of all scales, and of the history block behind them: ``(K, C)`` or ``(K + 1, C)``."""
        scales = self.scale_embedding.weight[: layout.pyramid.scales]
        return scales if self.history_embedding is None else torch.cat([scales, self.history_embedding[None]])

    def _modulation(self, pooled: Tensor) -> Modulation | None:
        if self.adaptive is None or self.head_adaptive is None:
            return None
        pooled = F.silu(pooled)
        return Modulation(self.adaptive(pooled).unflatten(-1, (6, -1)), self.head_adaptive(pooled).unflatten(-1, (2, -1)))

    def _blocks(self, hidden: Tensor, around: BlockContext) -> Tensor:
        activation_checkpointing = self.execution.activation_checkpointing and around.cache is None and torch.is_grad_enabled()
        for block in self.blocks:
            hidden = checkpoint(block, hidden, around, use_reentrant=False) if activation_checkpointing else block(hidden, around)
        return hidden

    def _logits(self, hidden: Tensor, modulation: Modulation | None) -> Tensor:
        hidden = self.head_norm(hidden)
        if modulation is not None:
            scale, shift = modulation.head[:, :, None].unbind(dim=1)
            hidden = modulate(hidden, scale, shift)
        return self.head(hidden).float()
