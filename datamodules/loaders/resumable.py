"""Loaders whose order is a pure function of how much was consumed, the same for every number of workers and processes.

They wrap a ``DataLoader`` and are none themselves: in a run with several processes Lightning replaces the sampler of every
``DataLoader`` that it finds, and would shuffle and share out the clips its own way.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.loaders.distributed import rank_and_world_size
from datamodules.loaders.order import Order, turn
from datamodules.loaders.sources import Joined, Place, Stream


class _Plan:
    """The index lists of one pass, set anew before every pass; what a ``DataLoader`` knows as its batch sampler."""

    batches: Any = ()

    def __iter__(self) -> Iterator[list]:
        return iter(self.batches)


class WrappedLoader:
    """A ``DataLoader`` whose batches follow ``self._plan``."""

    def __init__(self, dataset: Any, collate: Callable, workers: int) -> None:
        self._plan = _Plan()
        self._loader: DataLoader = DataLoader(
            dataset,
            batch_sampler=self._plan,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # A pass draws from this generator when it begins. The global one must not notice, or a resumed run would draw other noise.
            generator=torch.Generator(),
        )

    def _batches(self) -> Iterator[Any]:
        """One pass; what is wrong with the data is said in the same words whoever finds it."""
        try:
            yield from self._loader
        except ValueError as error:
            # From a worker it comes with the worker's traceback as text.
            if "DataLoader worker" not in str(error):
                raise
            raise ValueError(str(error).rstrip().rsplit("\nValueError: ", 1)[-1]) from error

    # Lightning stops the workers of whatever has an attribute of this name when a run ends. Left to the garbage collector, which may
    # take the queues apart before the workers, every worker would block it for five seconds.
    @property
    def _iterator(self) -> Any:
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator


class ResumableLoader(WrappedLoader):
    """Shuffled batches, each from one of several streams, that go on exactly where the state was saved.

    Whose turn a step is depends on the seed and the number of the step. The clips of a stream come as a row of permutations,
    permutation ``e`` drawn from ``(seed, e)``; its step takes the next ``batch_size * world`` clips of the row, whoever loads them. No
    batch is partial: the clips that do not fill the last batch of a permutation share one with the next. An item's "index" counts on from
    stream to stream, so that equal numbers mean the same clip at the same size.

    Every pass has ``len(self)`` batches, as many as the streams of a run's end fill, and begins where the last one stopped; how many of
    them are left of an epoch that was resumed in its middle is counted by Lightning.

    Args:
        streams: Clips to serve.
        collate: Makes a batch from a list of items.
        shares: Maps the number of a step to every stream's share of the steps at that time; equal if not given.
        workers: Worker processes, which all streams share; they live on from epoch to epoch.
        seed: Seed of the turns.

    Raises:
        ValueError: If a stream does not fill one batch of all processes.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        collate: Callable,
        *,
        shares: Callable[[int], Sequence[float]] | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(Joined([stream.dataset for stream in streams]), collate, workers)
        self.streams, self.seed = streams, seed
        self._shares = shares or (lambda step: [1.0] * len(streams))
        self._orders = [Order(len(stream.dataset), stream.seed) for stream in streams]
        self._steps, self._consumed = 0, [0] * len(streams)
        len(self)

    def __len__(self) -> int:
        """Batches per epoch."""
        _, world = rank_and_world_size()
        batches = [stream.batches(world) for stream in self.streams]
        return sum(count for count, share in zip(batches, self._shares(sys.maxsize), strict=True) if share > 0)

    def __iter__(self) -> Iterator[Any]:
        _, world = rank_and_world_size()
        self._plan.batches = self._places(self._steps, list(self._consumed))
        for batch in self._batches():
            # Counted here and not in the sampler, which runs ahead of the training loop by what the workers prefetch.
            number = self._turn(self._steps)
            self._steps += 1
            self._consumed[number] += self.streams[number].batch_size * world
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """How many steps were made, and how many clips of every stream all processes together have consumed."""
        return {"steps": self._steps, "consumed": list(self._consumed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ``ValueError`` if the state is that of other data, or of another version of this loader."""
        steps, consumed = state.get("steps"), state.get("consumed")
        numbers: list[Any] = [steps, *consumed] if isinstance(consumed, list) else [None]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError(
                "the checkpoint says where its data stood in another form than this version does: "
                "begin a new run with its weights by --init_from"
            )
        if len(numbers) - 1 != len(self.streams):
            raise ValueError(
                f"the checkpoint was made with clips of {len(numbers) - 1} sizes or sources, and now there are {len(self.streams)}: "
                "continue with the same data, or begin a new run with --init_from"
            )
        self._steps, self._consumed = numbers[0], numbers[1:]

    def _turn(self, step: int) -> int:
        return turn(step, self._shares(step), self.seed)

    def _places(self, steps: int, consumed: list[int]) -> Iterator[list[Place]]:
        """What this process loads in every step of a pass that begins after so many steps and clips."""
        rank, world = rank_and_world_size()
        for step in range(steps, steps + len(self)):
            number = self._turn(step)
            size = self.streams[number].batch_size
            clips = self._orders[number].take(consumed[number] + rank * size, size)
            consumed[number] += size * world
            yield [(number, clip, visit) for clip, visit in clips]


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
        super().__init__(dataset, collate, workers)
        self.dataset, self.batch_size = dataset, batch_size
        len(self)

    def __len__(self) -> int:
        return len(self._share())

    def __iter__(self) -> Iterator[Any]:
        self._plan.batches = self._share()
        return self._batches()

    def _share(self) -> list[list[int]]:
        rank, world = rank_and_world_size()
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
