"""How much arithmetic a training step asks for: two operations per multiplication, and three passes' worth for forward and backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from modules.geometry import Clip, Layout
from modules.planning.memory import example
from modules.tokenizer import VideoTokenizer
from modules.transformer import VideoARTransformer
from modules.transformer.masks import visible_blocks
from modules.transformer.sequence import TokenSequence


@dataclass(frozen=True)
class Work:
    """Of one clip.

    Attributes:
        tokens: Tokens of the video that are predicted.
        sequence: Tokens of a full pass, condition and history blocks included.
        linear: Operations of the linear layers in a forward pass.
        attention: Operations of attention in a forward pass, for the pairs of tokens that see each other.
        encoding: Operations of the frozen tokenizer's encoder.
    """

    tokens: int
    sequence: int
    linear: int
    attention: int
    encoding: int

    @property
    def training(self) -> int:
        """Operations of the model in a step, as utilisation counts them: nothing that is computed twice, nothing of the tokenizer."""
        return 3 * (self.linear + self.attention)

    def done(self, recompute: bool) -> int:
        """Operations that a step really does."""
        return (4 if recompute else 3) * (self.linear + self.attention) + self.encoding


def work_of(tokenizer: VideoTokenizer, transformer: VideoARTransformer, clip: Clip) -> Work:
    """Count it for networks on the meta device."""
    layout = tokenizer.layout(clip)
    sequence = TokenSequence(layout, transformer.condition.length, transformer.history)
    width = transformer.head.in_features
    return Work(
        tokens=layout.tokens,
        sequence=sequence.tokens,
        linear=linear_operations(transformer, layout),
        attention=4 * width * pairs(sequence, transformer.window) * len(transformer.blocks),
        encoding=encoding_operations(tokenizer, clip),
    )


def pairs(sequence: TokenSequence, window: int | None) -> int:
    """Pairs of tokens of which the first sees the second."""
    lengths = torch.tensor(list(sequence.blocks().values()), dtype=torch.float64)
    return int((lengths @ visible_blocks(sequence, window).double() @ lengths).item())


def linear_operations(transformer: VideoARTransformer, layout: Layout) -> int:
    """Of a forward pass over one clip."""
    found = 0

    def note(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal found
        found += 2 * inputs[0].numel() * output.shape[-1]

    hooks = [layer.register_forward_hook(note) for layer in transformer.modules() if isinstance(layer, nn.Linear)]
    inputs, complete = (tensor.to("meta") for tensor in example(transformer, layout, 1))
    with torch.no_grad():
        transformer(inputs, layout, transformer.condition.nothing(1, torch.device("meta")), complete=complete)
    for hook in hooks:
        hook.remove()
    return found


def encoding_operations(tokenizer: VideoTokenizer, clip: Clip) -> int:
    """Of encoding one clip."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokenizer.encode(torch.empty(1, 3, clip.frames, clip.height, clip.width, device="meta"))
    return counter.get_total_flops()
