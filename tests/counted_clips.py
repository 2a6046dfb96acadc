"""Clips identified by their index, and a model that records which ones it sees."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning import LightningDataModule, LightningModule, Trainer

from datamodules import ClipDataModule
from datamodules.clips import video_buckets
from datamodules.loaders import resumable
from modules.geometry import Clip


class Numbers(list):
    """Clip ``i`` is a black clip of one pixel whose index is ``i``."""

    frames = 1

    def __getitem__(self, index):
        return {"video": torch.zeros(3, self.frames, 1, 1, dtype=torch.uint8), "label": -1, "caption": "", "index": index}


class Visits(Numbers):
    """Clips whose label is their number of earlier visits."""

    def at_visit(self, index, visit):
        return {**self[index], "label": visit}


class NumberClips(ClipDataModule):
    """``length`` training clips and five held-out clips."""

    class_names: ClassVar[list[str]] = []
    captions: ClassVar[list[str]] = []

    def __init__(self, length=17, frames=1, kind=Numbers, **settings):
        super().__init__(Clip(frames, 1, 1), **{"batch_size": 3, "seed": 5, **settings})
        self.length, self.kind = length, kind

    def dataset(self, split, clip=None):
        numbers = self.kind(range(self.length if split == "train" else 5))
        numbers.frames = (clip or self.clip).frames
        return numbers


class Recorder(LightningModule):
    """Records clips, frames and labels of every training step."""

    def __init__(self, asks_for_steps=False):
        super().__init__()
        self.asks_for_steps = asks_for_steps
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []
        self.frames: list[int] = []
        self.labels: list[list[int]] = []

    def training_step(self, batch):
        self.seen.append(batch["index"].tolist())
        self.frames.append(batch["video"].shape[2])
        self.labels.append(batch["label"].tolist())
        return self.weight.sum()

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        if self.asks_for_steps:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), 0.1)


def record(
    data: LightningDataModule, folder: Path, steps: int = -1, ckpt_path: Path | None = None, model: Recorder | None = None, **options: Any
) -> Recorder:
    """Train on a data module and return what the model saw; writes the checkpoint ``<steps>.ckpt``."""
    model = model or Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "devices": 1}
    trainer = Trainer(default_root_dir=folder, max_steps=steps, **quiet, **options)
    trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return model


def as_process(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    """Treat this process as one of several."""
    for module in (resumable, video_buckets):
        monkeypatch.setattr(module, "rank_and_world_size", lambda: (rank, world))
