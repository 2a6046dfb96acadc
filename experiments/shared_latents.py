"""Latents that the runs of one process share."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from modules.autoregression import InMemoryLatentCache


class SharedLatents(InMemoryLatentCache):
    """Remembers latents beyond the run that encoded them.

    Args:
        data: Names the data and the tokenizer: what makes two clips of one number and shape the same.
    """

    _known: ClassVar[dict[str, dict[int, Tensor]]] = {}

    def __init__(self, data: str) -> None:
        super().__init__(clips=2**16)
        self.data = data

    def fetch(self, index: Tensor, video: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        self._latents = self._known.setdefault(f"{self.data} {tuple(video.shape[1:])}", {})
        return super().fetch(index, video, encode)
