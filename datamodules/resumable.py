"""Loaders whose order is a pure function of how much was consumed, the same for every number of workers and processes.

They wrap a ``DataLoader`` and are none themselves: in a run with several processes Lightning replaces the sampler of every
``DataLoader`` that it finds, and would shuffle and share out the clips its own way.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sized
from typing import Any

import torch
from torch import distributed
from torch.utils.data import DataLoader


class _Plan:
    """The index lists of one pass, set anew before every pass; what a ``DataLoader`` knows as its batch sampler."""

    batches: Any = ()

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class WrappedLoader:
    """A ``DataLoader`` whose batches follow ``self._plan``."""

    def __init__(self, dataset: Sized, collate: Callable, batch_size: int, workers: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size
        self._plan = _Plan()
        self._loader: DataLoader = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=self._plan,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A pass draws from this generator when it begins. The global one must not notice, or a resumed run would draw other noise.
            generator=torch.Generator(),
        )

    # Lightning stops the workers of whatever has an attribute of this name when a run ends. Left to the garbage collector, which may
    # take the queues apart before the workers, every worker would block it for five seconds.
    @property
    def _iterator(self) -> Any:
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator


class ResumableLoader(WrappedLoader):
    """Shuffled batches that go on exactly where the state was saved.

    The clips come as a row of permutations, permutation ``e`` drawn from ``(seed, e)``. A step takes the next ``batch_size * world``
    clips of the row, whoever loads them. No batch is partial: the clips that do not fill the last batch of an epoch open the next one.
    Every pass has ``len(self)`` batches and begins where the last one stopped; how many of them are left of an epoch that was resumed
    in its middle is counted by Lightning.

    Args:
        dataset: Map-style data set.
        collate: Makes a batch from a list of items.
        batch_size: Clips per process and step.
        workers: Worker processes; they live on from epoch to epoch.
        seed: Seed of the order.

    Raises:
        ValueError: If the data set does not fill one batch of all processes.
    """

    def __init__(self, dataset: Sized, collate: Callable, *, batch_size: int, workers: int = 0, seed: int = 0) -> None:
        super().__init__(dataset, collate, batch_size, workers)
        self._consumed = 0
        self._order = _Order(len(dataset), seed)
        len(self)

    def __len__(self) -> int:
        """Batches per epoch."""
        _, world = place()
        batches = len(self.dataset) // (self.batch_size * world)
        if batches == 0:
            raise ValueError(
                f"{len(self.dataset)} training clips do not fill one batch of {self.batch_size * world} "
                f"(batch_size {self.batch_size} x {world} processes)"
            )
        return batches

    def __iter__(self) -> Iterator[Any]:
        rank, world = place()
        step = self.batch_size * world
        first = self._consumed + rank * self.batch_size
        self._plan.batches = (self._order.take(first + k * step, self.batch_size) for k in range(len(self)))
        for batch in self._loader:
            # Counted here and not in the sampler, which runs ahead of the training loop by what the workers prefetch.
            self._consumed += step
            yield batch

    def state_dict(self) -> dict[str, int]:
        """How many clips all processes together have consumed."""
        return {"consumed": self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._consumed = state["consumed"]


class HeldOutLoader(WrappedLoader):
    """Every clip exactly once; rank ``r`` of ``n`` takes the clips ``r, r + n, ...`` in this order.

    All ranks yield equally many batches, so none waits for the others in a collective operation that they never enter.

    Args:
        dataset: Map-style data set.
        collate: Makes a batch from a list of items.
        batch_size: Clips per process and step; the last batches may be smaller.
        workers: Worker processes; they live on from pass to pass.

    Raises:
        ValueError: If the clips cannot be shared out like that.
    """

    def __init__(self, dataset: Sized, collate: Callable, *, batch_size: int, workers: int = 0) -> None:
        super().__init__(dataset, collate, batch_size, workers)
        len(self)

    def __len__(self) -> int:
        return len(self._share())

    def __iter__(self) -> Iterator[Any]:
        self._plan.batches = self._share()
        return iter(self._loader)

    def _share(self) -> list[list[int]]:
        rank, world = place()
        own = list(range(rank, len(self.dataset), world))
        most = math.ceil(len(self.dataset) / world)
        batches = [own[first : first + self.batch_size] for first in range(0, most, self.batch_size)]
        if len(batches) > 1 and not batches[-1]:
            # This rank has one clip less than others and would end a batch early.
            batches[-1] = [batches[-2].pop()]
        if not all(batches):
            raise ValueError(
                f"{len(self.dataset)} held-out clips cannot be shared evenly by {world} processes with batch_size {self.batch_size}; "
                f"use a multiple of {world} clips, or more clips and a larger batch_size"
            )
        return batches


def place() -> tuple[int, int]:
    """Rank of this process and number of processes; asked when needed, as loaders may be made before the processes find each other."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


class _Order:
    """The row of permutations of ``length`` clips, permutation ``e`` drawn from ``(seed, e)``."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        self._known: tuple[int, list[int]] = (-1, [])

    def take(self, first: int, count: int) -> list[int]:
        """The clips at the places ``first`` to ``first + count - 1`` of the row."""
        return [self._permutation(spot // self.length)[spot % self.length] for spot in range(first, first + count)]

    def _permutation(self, epoch: int) -> list[int]:
        if self._known[0] != epoch:
            # A text mixes the two numbers, so that (0, 1) and (1, 0) differ.
            generator = torch.Generator().manual_seed(random.Random(f"{self.seed}/{epoch}").getrandbits(32))
            self._known = (epoch, torch.randperm(self.length, generator=generator).tolist())
        return self._known[1]
