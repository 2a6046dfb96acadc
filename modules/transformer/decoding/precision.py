"""In what numbers a trained transformer makes videos: fewer bytes of weights, and on some machines less time."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "int8", "auto"]

# Tokens of the product by which a machine is judged: about those of a guided step at the largest scale of an 8 x 8 grid.
TOKENS = 128

# What bfloat16 has to save of float32's time: it costs exactness, and times wobble.
WORTH = 0.1


class Numbers(NamedTuple):
    """What a transformer computes in, and whether the weights of its linear layers are kept as 8-bit whole numbers."""

    dtype: torch.dtype
    int8: bool

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{name}, weights int8" if self.int8 else name


class Int8Linear(nn.Module):
    """A linear layer with weights from -127 to 127 and a scale per row, a quarter of float32's bytes and half of bfloat16's.

    The weights are converted for every product. On a CPU that takes time (docs/sampling.md); where a compiler fuses the conversion into
    the product, as on a GPU, a product that waits for its weights could take half the time of bfloat16.

    Args:
        layer: What it stands for, up to rounding: half a step of a row, whose largest weight is 127 steps.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(layer.weight.dtype))
        self.bias = layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = F.linear(inputs, self.weight.to(inputs.dtype)) * self.scale
        return outputs if self.bias is None else outputs + self.bias


def choose(precision: Precision, layer: nn.Linear) -> Numbers:
    """The numbers that a wish comes down to on the device of a layer.

    "auto" is bfloat16 on CUDA, on a CPU whatever takes less time for a product of this layer, which is tried once, and float32 elsewhere.
    "int8" keeps weights in 8 bits and computes in what "auto" is.
    """
    if precision in ("float32", "bfloat16"):
        return Numbers(getattr(torch, precision), int8=False)
    device = layer.weight.device.type
    fast = device == "cuda" or (device == "cpu" and bfloat16_pays(layer.weight))
    return Numbers(torch.bfloat16 if fast else torch.float32, int8=precision == "int8")


@torch.no_grad()
def bfloat16_pays(weight: Tensor) -> bool:
    """Whether a product with this weight takes notably less time in bfloat16 than in float32."""
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        inputs, converted = torch.ones(TOKENS, weight.shape[1], dtype=dtype, device=weight.device), weight.to(dtype)
        times[dtype] = min(_seconds(inputs, converted) for _ in range(3))  # the first of them warms up
    return times[torch.bfloat16] < (1 - WORTH) * times[torch.float32]


def to_int8(module: nn.Module) -> None:
    """Put an :class:`Int8Linear` in the place of every linear layer within a module."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            to_int8(child)


def _seconds(inputs: Tensor, weight: Tensor) -> float:
    start = time.perf_counter()
    F.linear(inputs, weight)
    return time.perf_counter() - start
