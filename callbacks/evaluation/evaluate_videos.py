"""Reconstructed and generated videos compared with real ones by a named protocol."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import load_file, save_file
from torch import Tensor

from callbacks.evaluation.base import EvaluationCallback, reference_clips
from callbacks.evaluation.feature_extraction import FeatureExtraction, VideoFunction, real_videos
from callbacks.writers.media import contact_sheet, write_png
from modules.geometry import Clip
from modules.metrics import (
    Evaluation,
    Measurement,
    Protocol,
    RealVideos,
    VideoFeatures,
    closest,
    copy_measurements,
    distance_measurements,
    variety_measurements,
)
from modules.storage.atomic_files import atomic_write

# Clips whose pixels identify a data set in the cache.
HASHED_CLIPS = 16
# Number of pairs on neighbours.png, and the captions of a pair.
PAIRS, PAIR = 6, ("generated", "nearest training video")


class EvaluateVideos(EvaluationCallback):
    """Measures, at the end of ``test``, distances between the model's videos and real ones.

    Compared are reconstructions (of a model with ``reconstruct``), generated videos (with ``make``), each seed separately, and static
    videos (first frames, repeated), which show if the features see motion. The reference is real-vs-real: two disjoint sets of real
    videos, as many as the protocol asks for or as exist. With several seeds the variety of videos of one condition is measured too, and
    with ``training_clips`` the distance to the nearest training video; ``neighbours.png`` shows the generated videos nearest to one.

    Videos are compared as uint8 and never read back from a lossy file. Clips and seeds do not depend on the number of processes.

    Args:
        features: The feature network; the distance is named after it.
        folder: Folder for ``neighbours.png``.
        protocol: Clips and settings of the comparison, see ``configs/protocol/``.
        clips: Videos on each side, instead of the protocol's; the departure is recorded with the values.
        repeats: Seeds of generated videos, instead of the protocol's.
        training_clips: Number of training videos to search for the nearest; 0 for none.
        cache: Folder that keeps features of real videos for later evaluations with the same data, features and protocol.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(
        self,
        features: VideoFeatures,
        folder: str,
        protocol: Protocol = Protocol(),  # noqa: B008 (frozen)
        clips: int | None = None,
        repeats: int | None = None,
        training_clips: int = 0,
        cache: str | None = None,
    ) -> None:
        if min(clips or 1, repeats or 1) < 1 or training_clips < 0 or clips == 0 or repeats == 0:
            raise ValueError(f"clips and repeats must be positive, got {clips} and {repeats}; training_clips: {training_clips}")
        self.network, self.protocol, self.folder = features, protocol, Path(folder)
        self.limit, self.repeats = clips or protocol.clips, repeats or protocol.repeats
        self.training_clips, self.cache = training_clips, Path(cache) if cache else None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises ``ValueError`` if the data does not fit the protocol, before any video is made."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.protocol.departures(data.clip, self.network.title, 0, 0)
        if self.protocol.frames < self.network.min_frames:
            raise ValueError(f"{self.network.title} needs {self.network.min_frames} frames, the protocol has {self.protocol.frames}")
        if self.protocol.classes == "uniform" and not data.class_names:
            raise ValueError(f"protocol {self.protocol.name} cycles through the classes, but the data has none")
        if len(reference_clips(data, self.protocol.split)) < 2:
            raise ValueError(f"there are fewer than two clips in the split {self.protocol.split!r} to compare with")

    def evaluate(self, trainer: Trainer, pl_module: LightningModule) -> Evaluation:
        self.network.to(pl_module.device)
        data = trainer.datamodule  # type: ignore[attr-defined]
        extraction = self._extraction(trainer, pl_module, self.protocol.split, len(data.class_names))
        real, static = self._real(extraction)
        sets = {"static": [static]}
        if hasattr(pl_module, "reconstruct"):
            sets["reconstructed"] = [self._features(extraction, "reconstructed", real.wanted, pl_module.reconstruct)[0]]  # type: ignore[arg-type]
        generated: dict[str, list[Tensor]] = {}
        if hasattr(pl_module, "make"):
            count, make = self._generated_count(real), pl_module.make
            seeds = range(self.repeats)
            generated["generated"] = [self._features(extraction, f"generated, seed {seed}", count, make, seed)[0] for seed in seeds]  # type: ignore[arg-type]
        found = distance_measurements(
            real, sets | generated, self.network.title, lambda name: self._note(data.clip, real, name == "generated")
        )
        found += variety_measurements(real, generated)
        if self.training_clips and generated:
            found += self._copies(extraction, real, generated)
        self.network.to("cpu")
        details = {"features": self.network.title, "fingerprint": self.network.fingerprint(), "limit": self.limit, "repeats": self.repeats}
        return Evaluation(found, asdict(self.protocol), details)

    def _extraction(self, trainer: Trainer, pl_module: LightningModule, split: str, classes: int) -> FeatureExtraction:
        """Clips of a split in a random, fixed order."""
        dataset = reference_clips(trainer.datamodule, split)  # type: ignore[attr-defined]
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
        return FeatureExtraction(trainer, pl_module, dataset, order, classes if self.protocol.classes == "uniform" else 0)

    def _features(
        self, extraction: FeatureExtraction, title: str, count: int, make: VideoFunction, repeat: int = 0
    ) -> tuple[Tensor, Tensor]:
        return extraction.features(self.network, count, self.protocol.frames, make, repeat, title)

    def _generated_count(self, real: RealVideos) -> int:
        """Videos to generate per seed."""
        return self.limit or real.wanted

    def _note(self, clip: Clip, real: RealVideos, generated: bool) -> str:
        """Departures from the protocol."""
        count, repeats = (self._generated_count(real), self.repeats) if generated else (real.wanted, None)
        return self.protocol.note(clip, self.network.title, real.wanted, count, repeats)

    def _real(self, extraction: FeatureExtraction) -> tuple[RealVideos, Tensor]:
        """Features of real and of static videos, read from the cache if they are there."""
        available = len(extraction.order)
        wanted = min(self.limit or available, available)
        count = max(wanted, 2 * min(wanted, available // 2))
        path = self.cache / f"{self._cache_key(extraction, wanted, count)}.safetensors" if self.cache else None
        hit = path is not None and path.is_file()
        if hit:
            rank_zero_info(f"features of real videos: from {path}")
        # Read by the first process for all.
        found = extraction.trainer.strategy.broadcast(load_file(path) if hit else None)  # type: ignore[arg-type]
        if found is None:
            own = replace(extraction, classes=0)
            vectors, labels = self._features(own, "real videos", count, real_videos)
            static, _ = self._features(own, "static videos", wanted, lambda batch: batch["video"][:, :, :1].expand_as(batch["video"]))
            found = {"vectors": vectors, "labels": labels, "frozen": static}
            if path is not None and extraction.trainer.is_global_zero:
                with atomic_write(path) as temporary:
                    save_file({name: values.contiguous() for name, values in found.items()}, temporary)
        return RealVideos(found["vectors"], found["labels"], wanted), found["frozen"]

    def _cache_key(self, extraction: FeatureExtraction, wanted: int, count: int) -> str:
        """Hash of everything that the features of real videos depend on."""
        about = [self.network.fingerprint(), self.protocol.frames, self.protocol.split, wanted, count, len(extraction.order)]
        rows = [(row.written, row.start, row.end) for row in getattr(extraction.dataset, "rows", ())]
        digest = hashlib.sha256(json.dumps([about, rows]).encode())
        for number in extraction.order[: min(HASHED_CLIPS, count)]:
            digest.update(extraction.dataset[number]["video"].numpy().tobytes())  # type: ignore[index]
        return digest.hexdigest()

    def _copies(self, extraction: FeatureExtraction, real: RealVideos, sets: Mapping[str, Sequence[Tensor]]) -> list[Measurement]:
        """Distances to the nearest training videos; draws the nearest pairs of the first seed."""
        trainer, model = extraction.trainer, extraction.module
        train = self._extraction(trainer, model, "train", 0)
        training, _ = self._features(train, "training videos", min(self.training_clips, len(train.order)), real_videos)
        positions, nearest = zip(*closest(training, sets["generated"][0], PAIRS), strict=True)
        generated, conditions = extraction.videos(positions, model.make)  # type: ignore[arg-type]
        known, captions = train.videos(nearest, real_videos)
        if trainer.is_global_zero:
            videos = [video for pair in zip(generated, known, strict=True) for video in pair]
            texts = [f"{text}\n{kind}" for pair in zip(conditions, captions, strict=True) for text, kind in zip(pair, PAIR, strict=True)]
            write_png(self.folder / "neighbours.png", contact_sheet(videos, texts, group=2))
        return copy_measurements(training, None if self.protocol.split == "train" else real.reference, sets)
