"""Data sources of training: data sets with a batch size each, and their concatenation."""

from __future__ import annotations

from collections.abc import Sized
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch.utils.data import Dataset

# Index of a source, index of a clip in it, and the number of earlier occurrences of that clip.
ClipIndex = tuple[int, int, int]


class DataSource(NamedTuple):
    """Training clips of one size, served in an endless shuffled order.

    Attributes:
        dataset: Map-style data set of items with an "index".
        batch_size: Clips per process and step.
        seed: Seed of the order.
        name: Name of the source in error messages; "" for the only source of a run.
    """

    dataset: Sized
    batch_size: int
    seed: int = 0
    name: str = ""

    def batches(self, world: int) -> int:
        """Return the number of batches per epoch of ``world`` processes; raises ``ValueError`` if it is 0."""
        batches = len(self.dataset) // (self.batch_size * world)
        if batches == 0:
            raise ValueError(
                f"{len(self.dataset)} training clips{self.name and f' ({self.name})'} do not fill one batch of {self.batch_size * world} "
                f"(batch_size {self.batch_size} x {world} processes)"
            )
        return batches


@runtime_checkable
class AugmentedDataset(Protocol):
    """Data set whose clips may differ from one visit to the next."""

    def at_visit(self, index: int, visit: int) -> dict:
        """Return clip ``index`` on its ``visit``-th occurrence, counted from 0."""
        ...


class ConcatSources(Dataset):
    """Concatenation of data sets that is indexed by ``ClipIndex``; the items' "index" is unique over all of them."""

    def __init__(self, datasets: list[Sized]) -> None:
        self.datasets = datasets
        self._offsets = [0, *accumulate(map(len, datasets))]

    def __getitem__(self, position: ClipIndex) -> dict:
        source, index, visit = position
        dataset: Any = self.datasets[source]
        item = dataset.at_visit(index, visit) if isinstance(dataset, AugmentedDataset) else dataset[index]
        return {**item, "index": self._offsets[source] + item["index"]}
