"""All clips of a data set in order, for a tokenizer to encode: in shards, which are either done or not."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Sized
from itertools import accumulate

from torch.utils.data import ConcatDataset

from datamodules.loaders.distributed import rank_and_world_size
from datamodules.loaders.resumable import WrappedLoader
from modules.batch import EncodingBatch
from modules.storage.latents import Shard


class ShardLoader(WrappedLoader):
    """The clips of several splits, shard by shard; rank ``r`` of ``n`` takes the shards ``r, r + n, ...``.

    No batch has clips of two shards, so that what is computed for a shard depends neither on the other shards nor on who computes it.

    Args:
        datasets: Map-style data sets by the name of their split.
        collate: Makes a batch from a list of items.
        batch_size: Clips per process and step; the last batch of a shard may be smaller.
        workers: Worker processes.
    """

    def __init__(self, datasets: Mapping[str, Sized], collate: Callable, *, batch_size: int, workers: int = 0) -> None:
        super().__init__(ConcatDataset(list(datasets.values())), collate, workers)  # type: ignore[arg-type]
        self.batch_size = batch_size
        self.lengths = {split: len(dataset) for split, dataset in datasets.items()}
        self._shards: list[Shard] = []

    def begin(self, shards: Sequence[Shard], done: Container[str]) -> int:
        """Say which clips are whose, and which shards to leave out. To be called before the first batch is asked for.

        Returns:
            How many clips this process has to do.
        """
        rank, world = rank_and_world_size()
        # First shared out, then left out: another process may just have finished one.
        self._shards = [shard for shard in shards[rank::world] if shard.name not in done]
        return sum(shard.count for shard in self._shards)

    def __len__(self) -> int:
        """More batches than there can be: Lightning would not begin with none, and asks before it is known what is done."""
        return max(1, sum(self.lengths.values()))

    def __iter__(self) -> Iterator[EncodingBatch]:
        starts = dict(zip(self.lengths, accumulate(self.lengths.values(), initial=0), strict=False))
        plan = [(shard, numbers) for shard in self._shards for numbers in self._batches_of(shard)]
        self._plan.batches = ([starts[shard.split] + number for number in numbers] for shard, numbers in plan)
        for (shard, numbers), batch in zip(plan, self._batches(), strict=True):
            last = numbers.stop == shard.first + shard.count
            yield EncodingBatch(**batch, shard=shard, last=last)

    def _batches_of(self, shard: Shard) -> list[range]:
        stop = shard.first + shard.count
        return [range(first, min(first + self.batch_size, stop)) for first in range(shard.first, stop, self.batch_size)]
