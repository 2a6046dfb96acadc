"""What every source of clips has in common: sizes, seeds and loaders. Children say which clips there are."""

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
from datamodules.loaders.sources import Stream
from modules.batch import LatentBatch, VideoBatch
from modules.geometry import Clip

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class StageOverride:
    """What training clips measure before a step of the run; what is not given is as in the data module's own clip.

    Args:
        frames: Number of video frames, 1 for pictures.
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
    """What training clips measure before the step ``end``, and how many a step takes of them per process."""

    end: float
    clip: Clip
    batch_size: int

    @property
    def name(self) -> str:
        """When it is, for errors; "" for the last one."""
        return "" if math.isinf(self.end) else f"before step {self.end}"


class ClipDataModule(LightningDataModule, ABC):
    """Loaders of ``VideoBatch`` over the splits "train", "val" and "test".

    The items of a data set are ``{"video": uint8 (3, T, H, W), "label": int, "caption": str, "index": int}``.

    Args:
        clip: What a clip measures: those held out, those to generate, and those to train on, unless ``milestones`` says otherwise.
        batch_size: Clips per process and step.
        workers: Worker processes per loader; 0 loads in the main process.
        seed: Seed of the training order.
        milestones: What training clips measure before a step, by the step, for growth inside of one run:
            ``{500: {frames: 1, batch_size: 32}, 2000: {frames: 9}}`` trains on pictures up to step 500, on 9 frames up to step 2000 and
            then on ``clip``. Steps are batches of the loader: with accumulated gradients an optimizer's step takes several.

    Raises:
        ValueError: If ``batch_size`` is below 1, ``workers`` is negative or ``milestones`` holds a step below 1.
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
        """The clips of "train", "val" or "test" as a map-style data set; of length 0 where a split has none.

        Args:
            split: Name of the split.
            clip: What they measure, if not what ``self.clip`` says.
        """

    def reference(self, split: str) -> Sized:
        """The clips of a split that results are compared with, in which nothing is drawn by chance."""
        return self.dataset(split)

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names of the classes by class id; empty if the clips have no classes."""

    @property
    @abstractmethod
    def captions(self) -> list[str]:
        """Training captions, or a sample that covers their words; empty if the clips have none."""

    @property
    def train_clips(self) -> list[Clip]:
        """All that training clips may measure in the course of a run."""
        return [phase.clip for phase in self.phases]

    @property
    def changing(self) -> bool:
        """Whether a training clip may look different every time that it comes around, so that nothing is gained from remembering it."""
        return False

    @property
    def encoded(self) -> bool:
        """Whether there are latents, in place of videos."""
        return False

    def setup(self, stage: str) -> None:
        """Makes the data sets of a stage; what is wrong with them is said here, before anything is trained."""
        if stage == "fit":
            self.streams()
        for split in {"fit": ("val",), "validate": ("val",), "test": ("test",)}.get(stage, ()):
            self.dataset(split)

    def streams(self) -> list[Stream]:
        """All that training batches are made of in the course of a run; every batch comes from one of them."""
        return [stream for phase in self._streams for stream in phase]

    def shares(self, step: int) -> list[float]:
        """Every stream's share of the batches around a step; together 1."""
        now = next(number for number, phase in enumerate(self.phases) if step < phase.end)
        weights = [[len(stream.dataset) / stream.batch_size for stream in streams] for streams in self._streams]
        return [weight / sum(row) if number == now else 0.0 for number, row in enumerate(weights) for weight in row]

    def streams_of(self, phase: Phase) -> list[Stream]:
        """What training batches are made of in a phase, each with a share that fits its number of clips."""
        dataset = self.dataset("train") if phase.clip == self.clip else self.dataset("train", phase.clip)
        return [Stream(dataset, phase.batch_size, self.seed, phase.name)]

    @cached_property
    def _streams(self) -> list[list[Stream]]:
        return [self.streams_of(phase) for phase in self.phases]

    def train_dataloader(self) -> ResumableLoader:
        """Shuffled and exact after a resume; raises ``ValueError`` if the clips do not fill one batch of all processes."""
        loader = ResumableLoader(self.streams(), collate, shares=self.shares, workers=self.workers, seed=self.seed)
        if self._restored:
            loader.load_state_dict(self._restored)
            self._restored = {}
        self._train_loader = loader
        return loader

    # Lightning keeps the loader's state too, but leaves it out when a checkpoint from the end of an epoch is resumed without max_steps,
    # and when configure_optimizers asks for trainer.estimated_stepping_batches.
    def state_dict(self) -> dict[str, Any]:
        return self._train_loader.state_dict() if self._train_loader else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = dict(state_dict)

    def val_dataloader(self) -> Iterable[VideoBatch | LatentBatch]:
        return self._held_out("val")

    def test_dataloader(self) -> Iterable[VideoBatch | LatentBatch]:
        return self._held_out("test")

    def predict_dataloader(self) -> ShardLoader:
        """All clips of all splits in order, for a tokenizer to encode; raises ``ValueError`` if there is more to see than these."""
        if self.changing:
            raise ValueError("clips that change from visit to visit cannot be encoded once and for all: leave datamodules.FreshViews out")
        if others := [clip for clip in self.train_clips if clip != self.clip]:
            said = ", ".join(f"{name} {value:g}" for name, value in asdict(others[0]).items())
            raise ValueError(f"clips are encoded at the size of data.clip, and some have {said}: encode every size in a folder of its own")
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


def _phases(clip: Clip, batch_size: int, milestones: dict[int, StageOverride]) -> list[Phase]:
    """The phases of a run in their order; the last one has no end."""
    phases = []
    for step, beginning in sorted(milestones.items()):
        if step < 1:
            raise ValueError(f"milestones: steps are at least 1, got {step}")
        given = {name: value for name, value in asdict(beginning).items() if value is not None}
        size = given.pop("batch_size", batch_size)
        phases.append(Phase(step, replace(clip, **given), size))
    phases.append(Phase(math.inf, clip, batch_size))
    for phase in phases:
        if phase.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {phase.batch_size}")
    return phases


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
