"""Memory of a training step of the transformer, counted on fake tensors.

The count includes weights, gradients, the optimizer's moments, and every tensor saved by the forward pass for the backward pass, but no
temporary tensors within operations. Attention saves what FlexAttention and flash kernels save: no matrix of all pairs, and no mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from modules.autoregression import bit_loss
from modules.geometry import Layout
from modules.transformer import VideoARTransformer
from modules.transformer.attention.attention import Dense
from modules.transformer.attention.precomputed import make_sequence_tensors
from modules.transformer.sequence import TokenSequence

# Builds a transformer with a number of blocks (None: its own number), with or without activation checkpointing.
Builder = Callable[[int | None, bool], VideoARTransformer]

STATES = 16  # bytes per parameter: weight, gradient and two moments in float32


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step on one device.

    Attributes:
        parameters: Number of parameters.
        block: Number of parameters of one block.
        layers: Number of blocks.
        fixed: Bytes saved for the backward pass independent of the batch size, such as weights in bf16.
        per_clip: Bytes saved for the backward pass per clip.
        recomputed: Bytes per clip of one recomputed block; 0 without activation checkpointing.
    """

    parameters: int
    block: int
    layers: int
    fixed: int
    per_clip: int
    recomputed: int

    def kept(self, batch: int) -> int:
        """Return the bytes saved by the forward pass of a batch."""
        return self.fixed + batch * self.per_clip

    def total(self, batch: int) -> int:
        """Peak in bytes, with the gradients of an earlier batch of the step."""
        return self.parameters * STATES + self.kept(batch) + batch * self.recomputed


class SavedTensors:
    """Storages that a forward pass saves for the backward pass, without parameters and buffers."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._own = {self._number(value) for value in (*model.parameters(), *model.buffers())}
        self._storages: dict[int, tuple[int, torch.UntypedStorage]] = {}

    @staticmethod
    def _number(tensor: Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def note(self, tensor: Tensor) -> Tensor:
        # A reference to the storage is kept, so that its number is not given to another one.
        self._storages[self._number(tensor)] = (tensor.untyped_storage().nbytes(), tensor.untyped_storage())
        return tensor

    @property
    def bytes(self) -> int:
        return sum(size for number, (size, _) in self._storages.items() if number not in self._own)


def memory_of(build: Builder, layout: Layout, activation_checkpointing: bool, bf16: bool) -> Memory:
    """Return the memory of a transformer in training on clips of a layout.

    Args:
        build: Builds the transformer.
        layout: Latent frames and scales of the clips.
        activation_checkpointing: Whether blocks are recomputed in the backward pass.
        bf16: Whether precision is bf16-mixed.
    """

    def count(layers: int | None, batch: int, activation_checkpointing: bool) -> int:
        return kept(lambda: build(layers, activation_checkpointing), layout, batch, bf16)

    def of_clip(layers: int | None, activation_checkpointing: bool) -> int:
        return count(layers, 2, activation_checkpointing) - count(layers, 1, activation_checkpointing)

    per_clip = of_clip(None, activation_checkpointing)
    with torch.device("meta"):
        model = build(None, activation_checkpointing)
    return Memory(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        block=sum(parameter.numel() for parameter in model.blocks[0].parameters()),
        layers=len(model.blocks),
        fixed=count(None, 1, activation_checkpointing) - per_clip,
        per_clip=per_clip,
        recomputed=of_clip(2, False) - of_clip(1, False) if activation_checkpointing else 0,
    )


def kept(build: Callable[[], VideoARTransformer], layout: Layout, batch: int, bf16: bool) -> int:
    """Return the bytes that a forward pass saves for the backward pass."""
    with torch.device("meta"):
        model = build()
    # Created outside of FakeTensorMode, because index tensors need real values.
    make_sequence_tensors(TokenSequence(layout, model.condition.length, model.history), model.window, model.rope, torch.device("cpu"))
    no_mask = patch.object(VideoARTransformer, "_attend", lambda *_: Dense(None))
    with FakeTensorMode(allow_non_fake_inputs=True), no_mask:
        model.to_empty(device="cpu")
        inputs, complete = example(model, layout, batch)
        ids = model.condition.nothing(batch, torch.device("cpu"))
        found = SavedTensors(model)
        hooks = torch.autograd.graph.saved_tensors_hooks(found.note, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(inputs, layout, ids, complete=complete)
            bit_loss(logits, torch.zeros(inputs.shape, dtype=torch.bool))
        return found.bytes


def example(model: VideoARTransformer, layout: Layout, batch: int) -> tuple[Tensor, Tensor]:
    """Return empty inputs of a batch: tokens of all scales, and features at full resolution."""
    bits = model.head.out_features
    return torch.empty(batch, layout.tokens, bits), torch.empty(batch, layout.frames, bits, *layout.pyramid.sizes[-1])
