"""What training clips come from: data sets with a batch size each, and all of them as one."""

from __future__ import annotations

from collections.abc import Sized
from itertools import accumulate
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch.utils.data import Dataset

# Number of a stream, of a clip in it, and how often that clip came before.
Place = tuple[int, int, int]


class Stream(NamedTuple):
    """Training clips of one size, to be served shuffled and without an end.

    Attributes:
        dataset: Map-style data set of items with an "index".
        batch_size: Clips per process and step.
        seed: Seed of the order.
        name: What the clips are called if there are too few; "" for all of a run.
    """

    dataset: Sized
    batch_size: int
    seed: int = 0
    name: str = ""

    def batches(self, world: int) -> int:
        """How many batches of ``world`` processes the clips fill; raises ``ValueError`` if it is none."""
        batches = len(self.dataset) // (self.batch_size * world)
        if batches == 0:
            raise ValueError(
                f"{len(self.dataset)} training clips{self.name and f' ({self.name})'} do not fill one batch of {self.batch_size * world} "
                f"(batch_size {self.batch_size} x {world} processes)"
            )
        return batches


@runtime_checkable
class Changing(Protocol):
    """A data set whose clips may look different every time that they come around."""

    def at_visit(self, index: int, visit: int) -> dict:
        """Clip ``index`` when it comes for the time ``visit``, counted from 0."""
        ...


class Joined(Dataset):
    """The clips of several data sets, counted on from one to the next."""

    def __init__(self, datasets: list[Sized]) -> None:
        self.datasets = datasets
        self._starts = [0, *accumulate(map(len, datasets))]

    def __getitem__(self, place: Place) -> dict:
        number, index, visit = place
        dataset: Any = self.datasets[number]
        item = dataset.at_visit(index, visit) if isinstance(dataset, Changing) else dataset[index]
        return {**item, "index": self._starts[number] + item["index"]}
