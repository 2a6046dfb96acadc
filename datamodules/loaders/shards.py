"""All clips of a data set in order, grouped by the shards of a latent cache."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Sized
from itertools import accumulate

from torch.utils.data import ConcatDataset

from datamodules.loaders.distributed import rank_and_world_size
from datamodules.loaders.resumable import WrappedLoader
from modules.batch import EncodingBatch
from modules.storage.latents import Shard


class ShardLoader(WrappedLoader):
    """Clips of several splits, shard by shard; rank ``r`` of ``n`` takes the shards ``r, r + n, ...``.

    No batch mixes two shards, so the result for a shard depends neither on other shards nor on the rank that computes it.

    Args:
        datasets: Map-style data sets by split.
        collate: Builds a batch from a list of items.
        batch_size: Clips per process and step; the last batch of a shard may be smaller.
        workers: Worker processes.
    """

    def __init__(self, datasets: Mapping[str, Sized], collate: Callable, *, batch_size: int, workers: int = 0) -> None:
        super().__init__(ConcatDataset(list(datasets.values())), collate, workers)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.lengths = {split: len(dataset) for split, dataset in datasets.items()}
        self._shards: list[Shard] = []

    def begin(self, shards: Sequence[Shard], done: Container[str]) -> int:
        """Set the shards to encode, before the first pass.

        Args:
            shards: All shards of the cache.
            done: Names of shards to skip.

        Returns:
            Number of clips that this process encodes.
        """
        rank, world = rank_and_world_size()
        # Distributed first and skipped second: another process may have just finished a shard.
        self._shards = [shard for shard in shards[rank::world] if shard.name not in done]
        return sum(shard.count for shard in self._shards)

    def __len__(self) -> int:
        """Return an upper bound: Lightning asks before ``begin`` is called, and skips the loop if the length is 0."""
        return max(1, sum(self.lengths.values()))

    def __iter__(self) -> Iterator[EncodingBatch]:
        starts = dict(zip(self.lengths, accumulate(self.lengths.values(), initial=0), strict=False))
        batches = [(shard, numbers) for shard in self._shards for numbers in self._batches_of(shard)]
        self._sampler.batches = ([starts[shard.split] + number for number in numbers] for shard, numbers in batches)
        for (shard, numbers), batch in zip(batches, self._batches(), strict=True):
            last = numbers.stop == shard.first + shard.count
            yield EncodingBatch(**batch, shard=shard, last=last)

    def _batches_of(self, shard: Shard) -> list[range]:
        stop = shard.first + shard.count
        return [range(first, min(first + self.batch_size, stop)) for first in range(shard.first, stop, self.batch_size)]
