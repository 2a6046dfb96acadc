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
class Work:
    """FLOPs and tokens of one clip.

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
        """FLOPs of the model in a training step, as counted for model FLOPs utilisation: without recomputation and tokenizer."""
        return 3 * (self.linear + self.attention)

    def done(self, activation_checkpointing: bool) -> int:
        """Return the FLOPs actually executed in a step, including recomputation and the tokenizer's encoder."""
        return (4 if activation_checkpointing else 3) * (self.linear + self.attention) + self.encoding


def work_of(tokenizer: VideoTokenizer, transformer: VideoARTransformer, clip: Clip) -> Work:
    """Return the FLOPs and tokens of one clip for networks on the meta device."""
    layout = tokenizer.layout(clip)
    linear, attention = forward_operations(transformer, layout)
    sequence = TokenSequence(layout, transformer.condition.length, transformer.history)
    return Work(layout.tokens, sequence.tokens, linear, attention, encoding_operations(tokenizer, clip))


def forward_operations(transformer: VideoARTransformer, layout: Layout) -> tuple[int, int]:
    """Return the FLOPs of linear layers and of attention in a forward pass over one clip, from the shapes of the weights."""
    sequence = TokenSequence(layout, transformer.condition.length, transformer.history)
    # Number of tokens that pass through each layer outside of the blocks.
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
    """Return the number of pairs of tokens of which the first sees the second."""
    lengths = torch.tensor(list(sequence.blocks().values()), dtype=torch.float64)
    return int((lengths @ visible_blocks(sequence, window).double() @ lengths).item())


def encoding_operations(tokenizer: VideoTokenizer, clip: Clip) -> int:
    """Return the FLOPs of encoding one clip; 0 for a tokenizer without encoder, whose clips are already encoded."""
    if not tokenizer.has_encoder:
        return 0
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokenizer.encode(torch.empty(1, 3, clip.frames, clip.height, clip.width, device="meta"))
    return counter.get_total_flops()
