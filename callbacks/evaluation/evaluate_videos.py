"""Reconstructed and generated videos against real ones, by a named protocol, with what real videos score beside every number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from safetensors.torch import load_file, save_file
from torch import Tensor

from callbacks.evaluation.feature_extraction import Maker, Walk
from callbacks.records.provenance import evaluation_origin
from callbacks.writers.media import contact_sheet, write_picture
from modules.geometry import Clip
from modules.metrics import Protocol, RealVideos, Results, Row, VideoFeatures, closest, copy_rows, distance_rows, table, variety_rows
from modules.metrics.evaluation.comparison import floor_size
from modules.storage.atomic_files import atomic_write, write_text

# Clips whose pixels stand for a data set when results about it are kept.
WITNESSES = 16
# Pairs of a generated and the nearest training video to be drawn, and what they are called.
SHOWN, KINDS = 6, ("generated", "nearest training video")


class EvaluateVideos(Callback):
    """Measures, at the end of ``test``, how far what the model makes is from real videos, and writes ``results.json``.

    Compared are reconstructions (of a model with ``reconstruct``), generated videos (with ``make``), every seed of them by itself, and
    frozen first frames, which show whether the features see motion at all. Beside each stands the floor: real videos against other real
    ones, as many as the protocol has or as there are. With several seeds the variety of videos of one condition is measured too, and
    with ``training_clips`` the distance to the nearest training video; ``neighbours.png`` shows the generated videos nearest to one.

    Videos are compared as uint8, never through a video file. Clips and seeds do not depend on the number of processes.

    Args:
        features: The network; the distance is named after it.
        folder: ``results.json`` is written to it.
        protocol: What to compare, see ``configs/protocol/``.
        clips: Videos on each side, instead of the protocol's; the numbers then say so.
        repeats: Seeds of generated videos, instead of the protocol's.
        training_clips: Training videos among which the nearest is looked for; 0 for none.
        cache: Folder that keeps the vectors of real videos for later evaluations with the same data, features and protocol.

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
        self.features, self.protocol, self.folder = features, protocol, Path(folder)
        self.limit, self.repeats = clips or protocol.clips, repeats or protocol.repeats
        self.training_clips, self.cache = training_clips, Path(cache) if cache else None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises ``ValueError`` if the data cannot give what the protocol asks for, before anything is made."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.protocol.departures(data.clip, self.features.title, 0, 0)
        if self.protocol.frames < self.features.min_frames:
            raise ValueError(f"{self.features.title} needs {self.features.min_frames} frames, the protocol has {self.protocol.frames}")
        if self.protocol.classes == "uniform" and not data.class_names:
            raise ValueError(f"protocol {self.protocol.name} goes through the classes, and the data has none")
        if len(clips_of(data, self.protocol.split)) < 2:
            raise ValueError(f"there are fewer than two clips in the split {self.protocol.split!r} to compare with")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        features = self.features.to(pl_module.device)
        # What is drawn here must not change what is drawn elsewhere.
        with isolate_rng(), trainer.precision_plugin.test_step_context():
            rows = self._measure(trainer, pl_module)
        features.to("cpu")
        logged = {f"evaluation/{row.metric}/{row.of}": row.value for row in rows}
        pl_module.log_dict(logged, sync_dist=True)  # equal on all processes; said so that Lightning does not warn
        rank_zero_info(f"protocol {self.protocol.name}\n{table(rows)}")
        if trainer.is_global_zero:
            write_text(self.folder / "results.json", self._results(trainer, pl_module, rows).text())

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> list[Row]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        walk = self._walk(trainer, pl_module, self.protocol.split, len(data.class_names))
        real, frozen = self._real(walk)
        sets = {"static": [frozen]}
        for name, make, repeats in makers(pl_module):
            seeds, places = range(self.repeats if repeats else 1), self._asked(real) if repeats else real.wanted
            sets[name] = [self._vectors(walk, f"{name}, seed {seed}", places, make, seed)[0] for seed in seeds]
        rows = distance_rows(real, sets, self.features.title, lambda name: self._note(data.clip, real, name == "generated"))
        generated = {name: vectors for name, vectors in sets.items() if name == "generated"}
        rows += variety_rows(real, generated)
        if self.training_clips and generated:
            rows += self._copies(trainer, pl_module, real, generated)
        return rows

    def _note(self, clip: Clip, real: RealVideos, seeds: bool) -> str:
        """What differs from the protocol."""
        made, repeats = (self._asked(real), self.repeats) if seeds else (real.wanted, None)
        departures = self.protocol.departures(clip, self.features.title, real.wanted, made, repeats)
        return f"not {self.protocol.name}: {', '.join(departures)}" if departures else ""

    def _copies(self, trainer: Trainer, pl_module: LightningModule, real: RealVideos, sets: dict[str, list[Tensor]]) -> list[Row]:
        walk = self._walk(trainer, pl_module, "train", 0)
        count = min(self.training_clips, len(walk.order))
        training, _ = self._vectors(walk, "training videos", count, lambda batch: batch["video"])
        self._show_copies(walk, closest(training, sets["generated"][0], SHOWN), len(trainer.datamodule.class_names))  # type: ignore[attr-defined]
        return copy_rows(training, None if self.protocol.split == "train" else real.reference, sets)

    def _show_copies(self, training: Walk, pairs: list[tuple[int, int]], classes: int) -> None:
        """Draw pairs of a generated video of the first seed and the training video that is nearest to it."""
        trainer, model = training.trainer, training.module
        walk = self._walk(trainer, model, self.protocol.split, classes)
        made, texts = walk.pictured([place for place, _ in pairs], model.make)  # type: ignore[arg-type]
        known, theirs = training.pictured([place for _, place in pairs], lambda batch: batch["video"])
        if trainer.is_global_zero:
            videos = [video for pair in zip(made, known, strict=True) for video in pair]
            says = [f"{text}\n{kind}" for pair in zip(texts, theirs, strict=True) for text, kind in zip(pair, KINDS, strict=True)]
            write_picture(self.folder / "neighbours.png", contact_sheet(videos, says, group=2))

    def _walk(self, trainer: Trainer, pl_module: LightningModule, split: str, classes: int) -> Walk:
        """The clips of a split in an order drawn by chance, always the same."""
        dataset = clips_of(trainer.datamodule, split)  # type: ignore[attr-defined]
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
        return Walk(trainer, pl_module, dataset, order, classes if self.protocol.classes == "uniform" else 0)

    def _asked(self, real: RealVideos) -> int:
        """Videos to generate for every seed."""
        return self.limit or real.wanted

    def _real(self, walk: Walk) -> tuple[RealVideos, Tensor]:
        """Real videos, and their frozen first frames."""
        there = len(walk.order)
        wanted = min(self.limit or there, there)
        places = max(wanted, 2 * floor_size(wanted, there))
        kept = self.cache / f"{self._key(walk, wanted, places)}.safetensors" if self.cache else None
        found = self._kept(walk.trainer, kept)
        if found is None:
            own = replace(walk, classes=0)
            vectors, labels = self._vectors(own, "real videos", places, lambda batch: batch["video"])
            frozen, _ = self._vectors(own, "static videos", wanted, lambda batch: batch["video"][:, :, :1].expand_as(batch["video"]))
            found = {"vectors": vectors, "labels": labels, "frozen": frozen}
            if kept is not None and walk.trainer.is_global_zero:
                with atomic_write(kept) as temporary:
                    save_file({name: values.contiguous() for name, values in found.items()}, temporary)
        return RealVideos(found["vectors"], found["labels"], wanted), found["frozen"]

    @staticmethod
    def _kept(trainer: Trainer, kept: Path | None) -> dict[str, Tensor] | None:
        """What a file of an earlier evaluation holds, read by the first process for all; None if there is none."""
        there = kept is not None and kept.is_file()
        if there:
            rank_zero_info(f"vectors of real videos: from {kept}")
        return trainer.strategy.broadcast(load_file(kept) if there else None)  # type: ignore[arg-type]

    def _vectors(self, walk: Walk, what: str, places: int, make: Maker, repeat: int = 0) -> tuple[Tensor, Tensor]:
        return walk.vectors(self.features, places, self.protocol.frames, make, repeat, what)

    def _key(self, walk: Walk, wanted: int, places: int) -> str:
        """Changes with everything that the vectors of real videos depend on."""
        about = [self.features.fingerprint(), self.protocol.frames, self.protocol.split, wanted, places, len(walk.order)]
        rows = [(row.written, row.start, row.end) for row in getattr(walk.dataset, "rows", ())]
        digest = hashlib.sha256(json.dumps([about, rows]).encode())
        for number in walk.order[: min(WITNESSES, places)]:
            digest.update(walk.dataset[number]["video"].numpy().tobytes())  # type: ignore[index]
        return digest.hexdigest()

    def _results(self, trainer: Trainer, pl_module: LightningModule, rows: list[Row]) -> Results:
        features = {"features": self.features.title, "fingerprint": self.features.fingerprint()}
        about = evaluation_origin(trainer, pl_module, **features, limit=self.limit, repeats=self.repeats)
        return Results(rows, self.protocol.plain(), about)


def clips_of(data: Any, split: str) -> Sized:
    """The clips of a split as results are compared with them: files from their middle, not from a random place.

    Raises:
        ValueError: If the data has latents of them only.
    """
    if getattr(data, "encoded", False):
        raise ValueError(f"what is made is compared with videos, and {type(data).__name__} has latents: evaluate with the clips themselves")
    return getattr(data, "reference", data.dataset)(split)


def makers(pl_module: LightningModule) -> list[tuple[str, Maker, bool]]:
    """What a model can make of a batch: its name, how, and whether seeds matter."""
    found = [("reconstructed", "reconstruct", False), ("generated", "make", True)]
    return [(name, getattr(pl_module, method), seeds) for name, method, seeds in found if hasattr(pl_module, method)]
