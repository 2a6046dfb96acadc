"""Feature vectors of many videos, real or made by a model, computed on all processes."""

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

# Distance of the seeds of two repeats. All seeds stay below 2 ** 32, of which torch keeps 32 bits.
SEED_STRIDE = 10_000_000

# Returns uint8 videos (B, 3, T, H, W) for a batch.
VideoFunction = Callable[[VideoBatch], Tensor]


def real_videos(batch: VideoBatch) -> Tensor:
    """Return the batch's own videos."""
    return batch["video"]


@dataclass(frozen=True)
class FeatureExtraction:
    """Feature extraction over clips of a data set: position ``p`` has clip ``order[p % len(order)]``.

    Positions are distributed over the processes, and a result depends on its position only, so neither the number of processes nor the
    batch size matters.

    Args:
        trainer: The trainer.
        module: The model.
        dataset: Map-style data set of a data module.
        order: Clip indices.
        classes: Number of classes, assigned to the positions cyclically; 0 keeps the clips' own conditions.
    """

    trainer: Trainer
    module: LightningModule
    dataset: Sized
    order: Sequence[int]
    classes: int = 0

    def features(
        self, network: Callable[[Tensor], Tensor], count: int, frames: int, make: VideoFunction, repeat: int = 0, title: str = "videos"
    ) -> tuple[Tensor, Tensor]:
        """Return features and labels of the first positions, equal on every process.

        Args:
            network: Maps uint8 videos ``(B, 3, frames, H, W)`` to ``(B, D)``.
            count: Number of positions.
            frames: Number of frames to use of every video.
            make: Returns the videos.
            repeat: Index of the seed.
            title: Label of the progress bar.

        Returns:
            ``(count, D)`` float64 and ``(count,)``, on the CPU.
        """
        world, rank = self.trainer.world_size, self.trainer.global_rank
        # Equally many on every process: the last position is repeated where needed.
        own = [min(position, count - 1) for position in range(rank, -(-count // world) * world, world)]
        parts: list[Tensor] = []
        for batch in self._batches(own, repeat, title):
            vectors = network(make(batch)[:, :, :frames])
            parts.append(torch.cat([vectors, batch["label"][:, None].to(vectors)], dim=1))
        gathered = self.module.all_gather(torch.cat(parts))
        assert isinstance(gathered, Tensor)
        if gathered.ndim > 2:
            # Process r has the positions r, r + n, r + 2 n, ...
            gathered = gathered.transpose(0, 1).flatten(0, 1)
        gathered = gathered[:count].cpu()
        return gathered[:, :-1], gathered[:, -1].long()

    def videos(self, positions: Sequence[int], make: VideoFunction) -> tuple[list[Tensor], list[str]]:
        """Return the videos of some positions, uint8 ``(3, T, H, W)`` each on the CPU, and their captions; on every process."""
        videos, texts = [], []
        for batch in self._batches(positions, 0, "examples"):
            videos += make(batch).cpu()
            texts += captions(batch)
        return videos, texts

    def _batches(self, positions: Sequence[int], repeat: int, title: str) -> Iterator[VideoBatch]:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        clips = _Positions(self, positions, SEED_STRIDE * repeat)
        loader = DataLoader(clips, data.batch_size, num_workers=data.workers, collate_fn=_collate)
        shown = self.trainer.is_global_zero and self.trainer.progress_bar_callback is not None
        for batch in tqdm(loader, title, disable=not shown):
            yield self.module.transfer_batch_to_device(batch, self.module.device, 0)


class _Positions(Dataset):
    """Clips at some positions; ``index``, from which seeds are derived, is the position plus an offset."""

    def __init__(self, extraction: FeatureExtraction, positions: Sequence[int], offset: int) -> None:
        self.dataset, self.order, self.classes = extraction.dataset, extraction.order, extraction.classes
        self.positions, self.offset = positions, offset

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, number: int) -> dict:
        position = self.positions[number]
        item = self.dataset[self.order[position % len(self.order)]]  # type: ignore[index]
        condition = {"label": position % self.classes, "caption": ""} if self.classes else {}
        return {**item, **condition, "index": position + self.offset}


def _collate(items: list[dict]) -> VideoBatch:
    return VideoBatch(
        video=torch.stack([item["video"] for item in items]),
        label=torch.tensor([item["label"] for item in items]),
        caption=[item["caption"] for item in items],
        index=torch.tensor([item["index"] for item in items]),
    )
