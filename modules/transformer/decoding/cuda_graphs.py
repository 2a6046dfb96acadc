"""Decoding steps as CUDA graphs: hundreds of kernels in one launch, because launching a small kernel takes longer than running it.

Not yet run on a GPU: the test in ``tests/test_graphs.py`` with the mark ``gpu`` compares it with plain steps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modules.transformer.decoding.buffers import Step

# Before the capture, kernels select their algorithms and libraries allocate their workspaces.
WARM_UPS = 3


class CudaGraph:
    """Captured step; inputs are copied to the buffer from which the captured kernels read.

    Args:
        step: Performs the same operations on the same tensors on every call, and may be called any number of times.
        inputs: Example inputs with the shape, dtype and device of later ones.
    """

    def __init__(self, step: Step, inputs: Tensor) -> None:
        with torch.inference_mode(False):
            self._inputs = torch.empty_like(inputs)
        # Weights cached by autocast are freed at the end of its context, so the conversions are made part of the graph instead.
        mixed = torch.autocast("cuda", torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda"), cache_enabled=False)
        with torch.cuda.device(inputs.device), mixed:
            self._inputs.copy_(inputs)
            self._warm_up(step)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=_pool(inputs.device)):
                self._outputs = step(self._inputs)

    def __call__(self, inputs: Tensor) -> Tensor:
        with torch.cuda.device(inputs.device):
            self._inputs.copy_(inputs)
            self._graph.replay()
            return self._outputs.clone()

    def _warm_up(self, step: Step) -> None:
        """Run the step on a side stream, as graph capture requires."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                step(self._inputs)
        here.wait_stream(aside)


@lru_cache
def _pool(device: torch.device) -> Any:
    """Return the memory pool shared by all graphs for intermediate results. Graphs run one at a time and keep their own outputs."""
    return torch.cuda.graph_pool_handle()
