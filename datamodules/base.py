"""Base class of the data modules of clips: sizes, seeds, phases and loaders."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sized
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from lightning import LightningDataModule

from datamodules.loaders.resumable import HeldOutLoader, ResumableLoader
from datamodules.loaders.shards import ShardLoader
from datamodules.loaders.sources import DataSource
from modules.batch import LatentBatch, VideoBatch
from modules.geometry import Clip

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class StageOverride:
    """Size of the training clips before a step of the run; values that are not given are those of the data module.

    Args:
        frames: Number of video frames, 1 for images.
        height: Height in pixels.
        width: Width in pixels.
        fps: Frames per second.
        batch_size: Clips per process and step.
    """

    frames: int | None = None
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    batch_size: int | None = None


class Phase(NamedTuple):
    """Size and per-process batch size of the training clips before the step ``end``."""

    end: float
    clip: Clip
    batch_size: int

    @property
    def name(self) -> str:
        """Name for error messages; "" for the last phase."""
        return "" if math.isinf(self.end) else f"before step {self.end}"


class ClipDataModule(LightningDataModule, ABC):
    """Loaders of ``VideoBatch`` over the splits "train", "val" and "test".

    The items of a data set are ``{"video": uint8 (3, T, H, W), "label": int, "caption": str, "index": int}``.

    Args:
        clip: Size of held-out clips, of clips to generate, and of training clips unless ``milestones`` overrides it.
        batch_size: Clips per process and step.
        workers: Worker processes per loader; 0 loads in the main process.
        seed: Seed of the training order.
        milestones: Size of the training clips before a step, by step, to grow clips within one run:
            ``{500: {frames: 1, batch_size: 32}, 2000: {frames: 9}}`` trains on images up to step 500, on 9 frames up to step 2000 and
            then on ``clip``. Steps are batches of the loader: with gradient accumulation an optimizer step takes several.

    Raises:
        ValueError: If ``batch_size`` is below 1, ``workers`` is negative or ``milestones`` has a step below 1.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
        milestones: dict[int, StageOverride] | None = None,
    ) -> None:
        super().__init__()
        if workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}")
        self.clip, self.batch_size, self.workers, self.seed = clip, batch_size, workers, seed
        self.phases = _phases(clip, batch_size, milestones or {})
        self._train_loader: ResumableLoader | None = None
        self._restored: dict[str, Any] = {}

    @abstractmethod
    def dataset(self, split: str, clip: Clip | None = None) -> Sized:
        """Return the clips of "train", "val" or "test" as a map-style data set, of length 0 for an empty split.

        Args:
            split: Name of the split.
            clip: Size of the clips; ``self.clip`` if not given.
        """

    def reference(self, split: str) -> Sized:
        """Return the clips of a split without random augmentation, as reference of an evaluation."""
        return self.dataset(split)

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Class names by class id; empty if the clips have no classes."""

    @property
    @abstractmethod
    def captions(self) -> list[str]:
        """Training captions, or a sample with the same vocabulary; empty if the clips have none."""

    @property
    def train_clips(self) -> list[Clip]:
        """All sizes of training clips in a run."""
        return [phase.clip for phase in self.phases]

    @property
    def changing(self) -> bool:
        """True if training clips differ from visit to visit (random augmentation), so caching their latents is useless."""
        return False

    @property
    def encoded(self) -> bool:
        """True if batches have latents instead of videos."""
        return False

    def setup(self, stage: str) -> None:
        """Create the data sets of a stage, so that errors in the data end a run before training."""
        if stage == "fit":
            self.sources()
        for split in {"fit": ("val",), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            self.dataset(split)

    def sources(self) -> list[DataSource]:
        """Return the sources of all phases of a run; every training batch comes from one of them."""
        return [source for phase in self._phase_sources for source in phase]

    def weights(self, step: int) -> list[float]:
        """Return the fraction of batches of every source around a step; the sum is 1."""
        current = next(number for number, phase in enumerate(self.phases) if step < phase.end)
        epochs = [[len(source.dataset) / source.batch_size for source in sources] for sources in self._phase_sources]
        return [size / sum(row) if number == current else 0.0 for number, row in enumerate(epochs) for size in row]

    def sources_of(self, phase: Phase) -> list[DataSource]:
        """Return the sources of a phase, weighted by their number of clips."""
        dataset = self.dataset("train") if phase.clip == self.clip else self.dataset("train", phase.clip)
        return [DataSource(dataset, phase.batch_size, self.seed, phase.name)]

    @cached_property
    def _phase_sources(self) -> list[list[DataSource]]:
        return [self.sources_of(phase) for phase in self.phases]

    def train_dataloader(self) -> ResumableLoader:
        """Return the shuffled, resumable loader; raises ``ValueError`` if the clips do not fill one batch of all processes."""
        loader = ResumableLoader(self.sources(), collate, weights=self.weights, workers=self.workers, seed=self.seed)
        if self._restored:
            loader.load_state_dict(self._restored)
            self._restored = {}
        self._train_loader = loader
        return loader

    # Lightning also saves the loader's state, but does not restore it when a checkpoint from the end of an epoch is resumed without
    # max_steps, or when configure_optimizers reads trainer.estimated_stepping_batches.
    def state_dict(self) -> dict[str, Any]:
        return self._train_loader.state_dict() if self._train_loader else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = dict(state_dict)

    def val_dataloader(self) -> Iterable[VideoBatch | LatentBatch]:
        return self._held_out("val")

    def test_dataloader(self) -> Iterable[VideoBatch | LatentBatch]:
        return self._held_out("test")

    def predict_dataloader(self) -> ShardLoader:
        """Return all clips of all splits in order, to be encoded; raises ``ValueError`` if training sees other clips too."""
        if self.changing:
            raise ValueError("clips that change from visit to visit cannot be encoded once: remove datamodules.FreshViews")
        if others := [clip for clip in self.train_clips if clip != self.clip]:
            size = ", ".join(f"{name} {value:g}" for name, value in asdict(others[0]).items())
            raise ValueError(f"clips are encoded at the size of data.clip, but some have {size}: encode each size into a separate folder")
        stored = {split: dataset for split in SPLITS if split not in self.same_splits and len(dataset := self.dataset(split))}
        return ShardLoader(stored, collate, batch_size=self.batch_size, workers=self.workers)

    @property
    def same_splits(self) -> dict[str, str]:
        """Splits that are identical to another split, mapped to that split."""
        return {"test": "val"} if self.dataset("test") is self.dataset("val") else {}

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Settings that, together with ``clip``, determine the pixels of every clip, as plain values; stored with cached latents."""
        return {"source": type(self).__name__, "seed": self.seed}

    def _held_out(self, split: str) -> Iterable[VideoBatch | LatentBatch]:
        dataset = self.dataset(split)
        return HeldOutLoader(dataset, collate, batch_size=self.batch_size, workers=self.workers) if len(dataset) else []


def _phases(clip: Clip, batch_size: int, milestones: dict[int, StageOverride]) -> list[Phase]:
    """Return the phases of a run in order; the last one has no end."""
    phases = []
    for step, override in sorted(milestones.items()):
        if step < 1:
            raise ValueError(f"milestones: steps are at least 1, got {step}")
        given = {name: value for name, value in asdict(override).items() if value is not None}
        size = given.pop("batch_size", batch_size)
        phases.append(Phase(step, replace(clip, **given), size))
    phases.append(Phase(math.inf, clip, batch_size))
    for phase in phases:
        if phase.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {phase.batch_size}")
    return phases


def collate(items: list[dict]) -> VideoBatch | LatentBatch:
    """Stack the items of a data set, which have either a "video" or a "latent", into a batch."""
    labels = {
        "label": torch.tensor([item["label"] for item in items], dtype=torch.int64),
        "caption": [item["caption"] for item in items],
        "index": torch.tensor([item["index"] for item in items], dtype=torch.int64),
    }
    if "latent" in items[0]:
        return LatentBatch(latent=torch.stack([item["latent"] for item in items]), **labels)
    return VideoBatch(video=torch.stack([item["video"] for item in items]), **labels)
