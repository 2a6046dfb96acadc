"""How passes and steps are computed, which changes their cost and, the precision of samples aside, nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from modules.transformer.attention.masks import MAX_DENSE_TOKENS
from modules.transformer.decoding.buffers import Recorder
from modules.transformer.decoding.cuda_graphs import CudaGraph
from modules.transformer.decoding.precision import Precision


@dataclass(frozen=True)
class Execution:
    """Choices of speed and memory.

    Args:
        attention: "dense" is PyTorch's scaled dot product under a mask of all pairs of tokens, "flex" FlexAttention without such a mask,
            which has gradients on CUDA only and needs heads of 16 or more; "auto" is dense while the mask is small, and flex on CUDA when
            there are gradients and more than 8192 tokens, whose mask would take 64 MiB (our decision). Decoding is always dense.
        activation_checkpointing: Keep only every block's input for the backward pass and compute the rest again: less memory for more
            time.
        graphs: Decode by CUDA graphs, one per scale and length of the cache, where the device is CUDA. Off until they have been run on
            a GPU.
        precision: Numbers in which ``predict`` holds the weights: "auto" is bfloat16 on CUDA, and on a CPU where a product takes less
            time in it; "int8" keeps the weights of the blocks in 8 bits and computes in what "auto" is.
    """

    attention: Literal["auto", "dense", "flex"] = "auto"
    activation_checkpointing: bool = False
    graphs: bool = False
    precision: Precision = "float32"

    def flex(self, device: torch.device, tokens: int) -> bool:
        """Whether a full pass of so many tokens on this device uses FlexAttention."""
        needed = device.type == "cuda" and tokens > MAX_DENSE_TOKENS and torch.is_grad_enabled()
        return self.attention == "flex" or (self.attention == "auto" and needed)

    def recorder(self, device: torch.device) -> Recorder | None:
        """What records the steps of decoding on this device; None to compute each of them anew."""
        return CudaGraph if self.graphs and device.type == "cuda" else None
