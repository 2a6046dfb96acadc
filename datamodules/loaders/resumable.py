"""Loaders whose order depends only on the number of consumed clips, not on the number of workers or processes.

They wrap a ``DataLoader`` and do not derive from it: in distributed runs Lightning replaces the sampler of every ``DataLoader`` that it
finds, which would change the order and the distribution of the clips.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.loaders.distributed import rank_and_world_size
from datamodules.loaders.order import Order, choose_source
from datamodules.loaders.sources import ClipIndex, ConcatSources, DataSource


class _BatchSampler:
    """Batch sampler whose index lists are set before every pass."""

    batches: Any = ()

    def __iter__(self) -> Iterator[list]:
        return iter(self.batches)


class WrappedLoader:
    """A ``DataLoader`` whose batches are those of ``self._sampler``."""

    def __init__(self, dataset: Any, collate: Callable, workers: int) -> None:
        self._sampler = _BatchSampler()
        self._loader: DataLoader = DataLoader(
            dataset,
            batch_sampler=self._sampler,  # type: ignore[arg-type]
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            # Every pass draws a base seed. Drawn from the global generator it would change the noise of a resumed run.
            generator=torch.Generator(),
        )

    def _batches(self) -> Iterator[Any]:
        """Yield one pass; a ``ValueError`` has the same message whether a worker or this process raised it."""
        try:
            yield from self._loader
        except ValueError as error:
            # The message of a worker's error contains the worker's traceback.
            if "DataLoader worker" not in str(error):
                raise
            raise ValueError(str(error).rstrip().rsplit("\nValueError: ", 1)[-1]) from error

    # Lightning stops the workers of any object with an attribute of this name when a run ends. If the garbage collector did it, it might
    # free the queues before the workers, and every worker would block for five seconds.
    @property
    def _iterator(self) -> Any:
        return self._loader._iterator

    @_iterator.setter
    def _iterator(self, iterator: Any) -> None:
        self._loader._iterator = iterator


class ResumableLoader(WrappedLoader):
    """Shuffled batches, each from one of several sources, that continue exactly where the state was saved.

    The source of a step depends on the seed and the step. The clips of a source come as a sequence of permutations, permutation ``e``
    drawn from ``(seed, e)``; each of its steps takes the next ``batch_size * world`` clips, whichever process loads them. No batch is
    partial: the last clips of a permutation share a batch with the first of the next. "index" is unique over all sources, so equal
    numbers mean the same clip at the same size.

    Every pass has ``len(self)`` batches, the number of full batches of the sources in use at the end of a run, and starts where the last
    one stopped. After a resume within an epoch, Lightning counts how many of them remain.

    Args:
        sources: Clips to serve.
        collate: Builds a batch from a list of items.
        weights: Maps a step to the weights of all sources at that step; equal weights if not given.
        workers: Worker processes, shared by all sources and kept between epochs.
        seed: Seed of the sequence of sources.

    Raises:
        ValueError: If a source does not fill one batch of all processes.
    """

    def __init__(
        self,
        sources: Sequence[DataSource],
        collate: Callable,
        *,
        weights: Callable[[int], Sequence[float]] | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(ConcatSources([source.dataset for source in sources]), collate, workers)
        self.sources, self.seed = sources, seed
        self._weights = weights or (lambda step: [1.0] * len(sources))
        self._orders = [Order(len(source.dataset), source.seed) for source in sources]
        self._steps, self._consumed = 0, [0] * len(sources)
        len(self)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        _, world = rank_and_world_size()
        batches = [source.batches(world) for source in self.sources]
        return sum(count for count, weight in zip(batches, self._weights(sys.maxsize), strict=True) if weight > 0)

    def __iter__(self) -> Iterator[Any]:
        _, world = rank_and_world_size()
        self._sampler.batches = self._indices(self._steps, list(self._consumed))
        for batch in self._batches():
            # Counted here and not in the sampler, which is ahead of the training loop by the batches that workers prefetch.
            number = self._source(self._steps)
            self._steps += 1
            self._consumed[number] += self.sources[number].batch_size * world
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps and, for every source, the number of clips that all processes have consumed."""
        return {"steps": self._steps, "consumed": list(self._consumed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position; raises ``ValueError`` if the state has another format or belongs to other data."""
        steps, consumed = state.get("steps"), state.get("consumed")
        numbers: list[Any] = [steps, *consumed] if isinstance(consumed, list) else [None]
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError("the data position in the checkpoint has an unknown format: start a new run from its weights with --init_from")
        if len(numbers) - 1 != len(self.sources):
            raise ValueError(
                f"the checkpoint was made with clips of {len(numbers) - 1} sizes or sources, and now there are {len(self.sources)}: "
                "continue with the same data, or start a new run with --init_from"
            )
        self._steps, self._consumed = numbers[0], numbers[1:]

    def _source(self, step: int) -> int:
        return choose_source(step, self._weights(step), self.seed)

    def _indices(self, first: int, consumed: list[int]) -> Iterator[list[ClipIndex]]:
        """Yield the indices that this process loads in every step of a pass that starts at step ``first``."""
        rank, world = rank_and_world_size()
        for step in range(first, first + len(self)):
            number = self._source(step)
            size = self.sources[number].batch_size
            clips = self._orders[number].take(consumed[number] + rank * size, size)
            consumed[number] += size * world
            yield [(number, clip, visit) for clip, visit in clips]


class HeldOutLoader(WrappedLoader):
    """Every clip exactly once; rank ``r`` of ``n`` takes the clips ``r, r + n, ...`` in this order.

    All ranks yield the same number of batches, so no rank waits in a collective operation that others never enter.

    Args:
        dataset: Map-style data set.
        collate: Builds a batch from a list of items.
        batch_size: Clips per process and step; the last batches may be smaller.
        workers: Worker processes, kept between passes.

    Raises:
        ValueError: If some rank would have fewer batches than others.
    """

    def __init__(self, dataset: Sized, collate: Callable, *, batch_size: int, workers: int = 0) -> None:
        super().__init__(dataset, collate, workers)
        self.dataset, self.batch_size = dataset, batch_size
        len(self)

    def __len__(self) -> int:
        return len(self._own_batches())

    def __iter__(self) -> Iterator[Any]:
        self._sampler.batches = self._own_batches()
        return self._batches()

    def _own_batches(self) -> list[list[int]]:
        rank, world = rank_and_world_size()
        own = list(range(rank, len(self.dataset), world))
        most = math.ceil(len(self.dataset) / world)
        batches = [own[first : first + self.batch_size] for first in range(0, most, self.batch_size)]
        if len(batches) > 1 and not batches[-1]:
            # This rank has one clip less than others and would have one batch less.
            batches[-1] = [batches[-2].pop()]
        if not all(batches):
            raise ValueError(
                f"{len(self.dataset)} held-out clips cannot be shared evenly by {world} processes with batch_size {self.batch_size}; "
                f"use a multiple of {world} clips, or more clips and a larger batch_size"
            )
        return batches
