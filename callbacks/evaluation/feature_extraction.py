"""Vectors of many videos: clips of a data set, or what a model makes for their conditions, shared out over all processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from dataclasses import dataclass

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from callbacks.log_videos import captions
from modules.batch import VideoBatch

# Seeds of different repeats lie this far apart; all of them stay below 2 ** 32, of which torch keeps 32 bits.
SEEDS = 10_000_000

# Makes uint8 videos (B, 3, T, H, W) of a batch.
Maker = Callable[[VideoBatch], Tensor]


@dataclass(frozen=True)
class Walk:
    """Which clips are visited: place ``p`` shows clip ``order[p]``, over and over if there are more places than clips.

    A place belongs to one process, and what is found there depends on the place alone, so neither the number of processes nor the size of
    a batch matters.

    Args:
        trainer: The trainer.
        module: The model.
        dataset: Items like those of every data module.
        order: Numbers of clips.
        classes: Number of classes to go through in turn, place by place; 0 to keep the clips' own conditions.
    """

    trainer: Trainer
    module: LightningModule
    dataset: Sized
    order: Sequence[int]
    classes: int = 0

    def vectors(
        self, features: Callable[[Tensor], Tensor], places: int, frames: int, make: Maker, repeat: int = 0, title: str = "videos"
    ) -> tuple[Tensor, Tensor]:
        """What the features of videos are, and their labels, place by place; the same on every process.

        Args:
            features: Called with uint8 videos ``(B, 3, frames, H, W)``; gives ``(B, D)``.
            places: Number of places to visit, from the first on.
            frames: Frames to look at.
            make: Makes the videos.
            repeat: Number of the seed.
            title: Stands at the progress bar.

        Returns:
            ``(places, D)`` float64 and ``(places,)``, on the CPU.
        """
        found: list[Tensor] = []
        for batch in self._batches(places, repeat, title):
            vectors = features(make(batch)[:, :, :frames])
            found.append(torch.cat([vectors, batch["label"][:, None].to(vectors)], dim=1))
        together = self.module.all_gather(torch.cat(found))
        if together.ndim > 2:  # type: ignore[union-attr]
            # Processes, of which r has the places r, r + n, r + 2 n, ...
            together = together.transpose(0, 1).flatten(0, 1)  # type: ignore[union-attr]
        together = together[:places].cpu()  # type: ignore[index]
        return together[:, :-1], together[:, -1].long()

    def pictured(self, places: Sequence[int], make: Maker, repeat: int = 0) -> tuple[list[Tensor], list[str]]:
        """What is made at some places, by every process, on the CPU: uint8 ``(3, T, H, W)`` each, and what is asked for there."""
        clips, videos, texts = _Places(self, places, SEEDS * repeat), [], []
        for batch in DataLoader(clips, self.trainer.datamodule.batch_size, collate_fn=_collate):  # type: ignore[attr-defined]
            videos += make(self.module.transfer_batch_to_device(batch, self.module.device, 0)).cpu()
            texts += captions(batch)
        return videos, texts

    def _batches(self, places: int, repeat: int, title: str) -> Iterator[VideoBatch]:
        """Batches of this process; as many on every one, the last places being visited again where it must be."""
        world, rank = self.trainer.world_size, self.trainer.global_rank
        own = [min(place, places - 1) for place in range(rank, -(-places // world) * world, world)]
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        clips = _Places(self, own, SEEDS * repeat)
        loader = DataLoader(clips, data.batch_size, num_workers=data.workers, collate_fn=_collate)
        shown = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        for batch in tqdm(loader, title, disable=not shown):
            yield self.module.transfer_batch_to_device(batch, self.module.device, 0)


class _Places(Dataset):
    """The clips at some places of a walk, each numbered by its place instead of its number in the data set."""

    def __init__(self, walk: Walk, places: Sequence[int], offset: int) -> None:
        self.dataset, self.order, self.classes = walk.dataset, walk.order, walk.classes
        self.places, self.offset = places, offset

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> dict:
        place = self.places[number]
        item = self.dataset[self.order[place % len(self.order)]]  # type: ignore[index]
        told = {"label": place % self.classes, "caption": ""} if self.classes else {}
        return {**item, **told, "index": place + self.offset}


def _collate(items: list[dict]) -> VideoBatch:
    return VideoBatch(
        video=torch.stack([item["video"] for item in items]),
        label=torch.tensor([item["label"] for item in items]),
        caption=[item["caption"] for item in items],
        index=torch.tensor([item["index"] for item in items]),
    )
