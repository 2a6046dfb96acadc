"""In-memory latent cache shared by the runs of one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from modules.autoregression import InMemoryLatentCache


class SharedLatents(InMemoryLatentCache):
    """Latent cache that outlives the run that encoded the latents.

    Args:
        data: Identifies data and tokenizer: clips of equal index and shape share a latent.
    """

    _known: ClassVar[dict[str, dict[int, Tensor]]] = {}

    def __init__(self, data: str) -> None:
        super().__init__(clips=2**16)
        self.data = data

    def fetch(self, index: Tensor, video: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        self._latents = self._known.setdefault(f"{self.data} {tuple(video.shape[1:])}", {})
        return super().fetch(index, video, encode)
