"""Execution options of the transformer: attention kernel, activation checkpointing, CUDA graphs, precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from modules.transformer.attention.masks import MAX_DENSE_TOKENS
from modules.transformer.decoding.buffers import Recorder
from modules.transformer.decoding.cuda_graphs import CudaGraph

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Execution:
    """Options that trade speed and memory. Only ``precision`` affects results.

    Args:
        attention: "dense" is PyTorch's scaled dot-product attention under a dense mask; "flex" is FlexAttention with a block mask, which
            has gradients on CUDA only and needs a head width of at least 16; "auto" uses flex on CUDA with gradients and more than 8192
            tokens, whose dense mask would take 64 MiB, and dense otherwise (our decision). Decoding is always dense.
        activation_checkpointing: Store only the input of each block for the backward pass and recompute the rest.
        graphs: Decode with CUDA graphs, one per scale and cache length, on CUDA devices. Off by default: not yet run on a GPU.
        precision: dtype of the weights in ``predict`` and ``load``. For smaller weights, apply torchao's int8 weight-only quantisation to
            the exported model.

    Raises:
        ValueError: If ``precision`` is neither "float32" nor "bfloat16".
    """

    attention: Literal["auto", "dense", "flex"] = "auto"
    activation_checkpointing: bool = False
    graphs: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(
                f'execution.precision must be "float32" or "bfloat16", got {self.precision!r}; '
                "for int8 weights, apply torchao's weight-only quantisation to the exported model"
            )

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the weights in inference."""
        return getattr(torch, self.precision)

    def flex(self, device: torch.device, tokens: int) -> bool:
        """Return True if a full pass over this number of tokens uses FlexAttention."""
        needed = device.type == "cuda" and tokens > MAX_DENSE_TOKENS and torch.is_grad_enabled()
        return self.attention == "flex" or (self.attention == "auto" and needed)

    def recorder(self, device: torch.device) -> Recorder | None:
        """Return the recorder of decoding steps on this device, None to run them eagerly."""
        return CudaGraph if self.graphs and device.type == "cuda" else None
