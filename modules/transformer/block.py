"""LLaMA blocks, plain or with norms that the condition modulates (paper 4.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.transformer.attention.attention import Attention, BlockContext


class Modulation(NamedTuple):
    """Modulation of the norms by the condition: scales, shifts and gates ``(B, 6, C)`` for the blocks, ``(B, 2, C)`` for the head."""

    blocks: Tensor
    head: Tensor


class SwiGLU(nn.Module):
    """Gated feed-forward layer with hidden width ``4 C``, no biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_and_value = nn.Linear(width, 8 * width, bias=False)
        self.out = nn.Linear(4 * width, width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, value = self.gate_and_value(hidden).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)


class Block(nn.Module):
    """A plain LLaMA block: attention and feed-forward, each behind an RMS norm."""

    def __init__(self, width: int, heads: int, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, layer)
        self.feed_forward_norm = nn.RMSNorm(width, eps=1e-6)
        self.feed_forward = SwiGLU(width)

    def forward(self, hidden: Tensor, context: BlockContext) -> Tensor:
        """``(B, n, C)`` to the same shape."""
        hidden = hidden + self.attention(self.attention_norm(hidden), context)
        return hidden + self.feed_forward(self.feed_forward_norm(hidden))


class ModulatedBlock(Block):
    """A block whose norms and residual branches the condition scales, shifts and gates.

    The projection of the condition is shared by all blocks (it is what brings the L model to the paper's 926 M parameters); a block adds
    an offset of its own. At the start the modulation is zero and the block is a plain one.
    """

    def __init__(self, width: int, heads: int, layer: int) -> None:
        super().__init__(width, heads, layer)
        self.modulation = nn.Parameter(torch.zeros(6, width))

    def forward(self, hidden: Tensor, context: BlockContext) -> Tensor:
        """``(B, n, C)`` to the same shape; ``context.modulation`` is ``(B, 6, C)``: scale, shift and gate of both halves."""
        shared = context.modulation
        assert shared is not None
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = (shared + self.modulation)[:, :, None].unbind(dim=1)
        attended = self.attention(modulate(self.attention_norm(hidden), scale_1, shift_1), context)
        hidden = hidden + (1 + gate_1) * attended
        fed = self.feed_forward(modulate(self.feed_forward_norm(hidden), scale_2, shift_2))
        return hidden + (1 + gate_2) * fed


def modulate(hidden: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale by ``1 + scale`` and shift, broadcast over tokens."""
    return torch.addcmul(shift, hidden, 1 + scale)
