"""What every source of clips has in common: sizes, seeds and loaders. Children say which clips there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sized
from typing import Any

import torch
from lightning import LightningDataModule

from datamodules.resumable import HeldOutLoader, ResumableLoader
from datamodules.shards import ShardLoader
from modules.batch import LatentBatch, VideoBatch
from modules.geometry import Clip

SPLITS = ("train", "val", "test")


class ClipDataModule(LightningDataModule, ABC):
    """Loaders of ``VideoBatch`` over the splits "train", "val" and "test".

    The items of a data set are ``{"video": uint8 (3, T, H, W), "label": int, "caption": str, "index": int}``.

    Args:
        clip: What a clip measures.
        batch_size: Clips per process and step.
        workers: Worker processes per loader; 0 loads in the main process.
        seed: Seed of the training order.

    Raises:
        ValueError: If ``batch_size`` is below 1 or ``workers`` is negative.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}")
        self.clip, self.batch_size, self.workers, self.seed = clip, batch_size, workers, seed
        self._train_loader: ResumableLoader | None = None
        self._restored: dict[str, int] = {}

    @abstractmethod
    def dataset(self, split: str) -> Sized:
        """The clips of "train", "val" or "test" as a map-style data set; of length 0 where a split has none."""

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes by class id; empty if the clips have no classes."""

    @property
    @abstractmethod
    def captions(self) -> list[str]:
        """Training captions, or a sample that covers their words; empty if the clips have none."""

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled and exact after a resume; raises ``ValueError`` if the clips do not fill one batch of all processes."""
        loader = ResumableLoader(self.dataset("train"), collate, batch_size=self.batch_size, workers=self.workers, seed=self.seed)
        if self._restored:
            loader.load_state_dict(self._restored)
            self._restored = {}
        self._train_loader = loader
        return loader

    # Lightning keeps the loader's state too, but leaves it out when a checkpoint from the end of an epoch is resumed without max_steps,
    # and when configure_optimizers asks for trainer.estimated_stepping_batches.
    def state_dict(self) -> dict[str, int]:
        return self._train_loader.state_dict() if self._train_loader else {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._restored = dict(state_dict)

    def val_dataloader(self) -> Iterable[VideoBatch | LatentBatch]:
        return self._held_out("val")

    def test_dataloader(self) -> Iterable[VideoBatch | LatentBatch]:
        return self._held_out("test")

    def predict_dataloader(self) -> ShardLoader:
        """All clips of all splits in order, for a tokenizer to encode."""
        stored = {split: dataset for split in SPLITS if split not in self.same_splits and len(dataset := self.dataset(split))}
        return ShardLoader(stored, collate, batch_size=self.batch_size, workers=self.workers)

    @property
    def same_splits(self) -> dict[str, str]:
        """Splits that are the same as another one."""
        return {"test": "val"} if self.dataset("test") is self.dataset("val") else {}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What decides, besides ``clip``, which pixels every clip has, as plain values; latents of clips go by it."""
        return {"source": type(self).__name__, "seed": self.seed}

    def _held_out(self, split: str) -> Iterable[VideoBatch | LatentBatch]:
        dataset = self.dataset(split)
        return HeldOutLoader(dataset, collate, batch_size=self.batch_size, workers=self.workers) if len(dataset) else []


def collate(items: list[dict]) -> VideoBatch | LatentBatch:
    """Stacks the items of a data set into a batch; they have either a video or a latent."""
    said = {
        "label": torch.tensor([item["label"] for item in items], dtype=torch.int64),
        "caption": [item["caption"] for item in items],
        "index": torch.tensor([item["index"] for item in items], dtype=torch.int64),
    }
    if "latent" in items[0]:
        return LatentBatch(latent=torch.stack([item["latent"] for item in items]), **said)
    return VideoBatch(video=torch.stack([item["video"] for item in items]), **said)
