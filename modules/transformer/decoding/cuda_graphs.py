"""Steps of decoding as CUDA graphs: hundreds of kernels are launched at once, as small ones take less time than their launches.

Never run on a GPU so far: see ``tests/test_graphs.py``, whose test with the mark ``gpu`` compares it with plain steps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from modules.transformer.decoding.buffers import Step

# Before a recording kernels choose their algorithms and libraries take their memory.
WARM_UPS = 3


class CudaGraph:
    """A recorded step; what it is given is copied to where the recorded kernels read.

    Args:
        step: Does the same operations on the same tensors whenever it is called, and may be called any number of times.
        inputs: Inputs like those to come.
    """

    def __init__(self, step: Step, inputs: Tensor) -> None:
        with torch.inference_mode(False):
            self._inputs = torch.empty_like(inputs)
        # Weights that autocast has converted and kept are gone after its block; conversions become a part of the graph instead.
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
        """On a stream of its own, as recording asks for."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                step(self._inputs)
        here.wait_stream(aside)


@lru_cache
def _pool(device: torch.device) -> Any:
    """Memory for what all graphs compute on the way. They run one after the other, and each keeps its outputs for itself."""
    return torch.cuda.graph_pool_handle()
