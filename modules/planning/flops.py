"""FLOPs of a training step: two per multiply-add; forward and backward together count as three forward passes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modules.geometry import Clip, Layout
from modules.tokenizer import VideoTokenizer
from modules.transformer import VideoARTransformer
from modules.transformer.attention.masks import visible_blocks
from modules.transformer.sequence import TokenSequence


@dataclass(frozen=True)
class Flops:
    """Floating-point operations for one clip.

    Attributes:
        tokens: Number of predicted tokens of the video.
        sequence: Number of tokens of a full pass, including condition and history blocks.
        linear: FLOPs of the linear layers in a forward pass.
        attention: FLOPs of attention in a forward pass, counting only visible pairs of tokens.
        encoding: FLOPs of the frozen tokenizer's encoder.
    """

    tokens: int
    sequence: int
    linear: int
    attention: int
    encoding: int

    @property
    def training(self) -> int:
        """Operations of the model in a step, as utilisation counts them: without recomputation, without the tokenizer."""
        return 3 * (self.linear + self.attention)

    def done(self, activation_checkpointing: bool) -> int:
        """Operations that a step performs, recomputation and encoding included."""
        return (4 if activation_checkpointing else 3) * (self.linear + self.attention) + self.encoding


def flops_of(tokenizer: VideoTokenizer, transformer: VideoARTransformer, clip: Clip) -> Flops:
    """Return the operations of networks on the meta device."""
    layout = tokenizer.layout(clip)
    linear, attention = forward_operations(transformer, layout)
    sequence = TokenSequence(layout, transformer.condition.length, transformer.history)
    return Flops(layout.tokens, sequence.tokens, linear, attention, encoding_operations(tokenizer, clip))


def forward_operations(transformer: VideoARTransformer, layout: Layout) -> tuple[int, int]:
    """Return the operations of the linear layers and of attention in a forward pass over one clip, from the shapes of the weights."""
    sequence = TokenSequence(layout, transformer.condition.length, transformer.history)
    # Numbers of tokens that go through a layer that is not part of a block.
    passes = {"adaptive": 1, "head_adaptive": 1, "head": layout.tokens, "project": sequence.tokens - sequence.prompt_length}
    passes |= {"condition": sequence.prompt_length}
    linear = 0
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear):
            linear += 2 * layer.weight.numel() * passes.get(name.split(".")[0], sequence.tokens)
    attention = 4 * transformer.head.in_features * pairs(sequence, transformer.window) * len(transformer.blocks)
    return linear, attention


@lru_cache
def pairs(sequence: TokenSequence, window: int | None) -> int:
    """Return the number of pairs of tokens of which the first attends to the second."""
    lengths = torch.tensor(list(sequence.blocks().values()), dtype=torch.float64)
    return int((lengths @ visible_blocks(sequence, window).double() @ lengths).item())


def encoding_operations(tokenizer: VideoTokenizer, clip: Clip) -> int:
    """Return the operations of encoding one clip; 0 without an encoder."""
    if not tokenizer.has_encoder:
        return 0
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokenizer.encode(torch.empty(1, 3, clip.frames, clip.height, clip.width, device="meta"))
    return counter.get_total_flops()
