"""Latents of all clips of a data set, encoded once, as files to train from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from callbacks.records.provenance import origin
from modules.batch import EncodingBatch
from modules.storage.atomic_files import atomic_write, write_text
from modules.storage.latents import (
    CachedClip,
    CachePlan,
    Numbers,
    clips_of_shard,
    open_plan,
    plan_path,
    shard_files,
    shard_path,
    write_shard,
)


class WriteLatents(BasePredictionWriter):
    """Writes what ``predict`` of a tokenizer makes of clips: a folder for ``datamodules.CachedLatents``.

    It holds ``cache.json`` and, for every split, shards of up to 64 MB. A shard is there when it is whole, and is left out when the
    command is given again; so a run that was stopped goes on, and with several processes each makes shards of its own. The result is the
    same. The folder must be one that all of them see. Before anything is written, the size is said and compared with the free space.

    Args:
        folder: Folder to write to, made if missing.
        numbers: How latents are stored. "float16" takes half the space and changes about one bit in 8000.
    """

    def __init__(self, folder: str, numbers: Numbers = "float32") -> None:
        super().__init__("batch")
        self.folder = Path(folder)
        self.numbers: Numbers = numbers

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Settle what is to be done; not in setup, where the tokenizer's weights are not loaded yet.

        Raises:
            ValueError: If the data are no clips, another cache was begun in the folder, or the disc has too little room.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader: Any = trainer.predict_dataloaders
        if not hasattr(loader, "begin"):
            raise ValueError(f"latents are made of clips, which {type(data).__name__} does not have: leave configs/reconstruct.yaml out")
        self._plan, begun = open_plan(self.folder, self._new_plan(trainer, pl_module, loader.lengths))
        shards, done = list(self._plan.shards()), shard_files(self.folder)
        self._announce([shard for shard in shards if shard.name not in done], len(shards))
        if not begun and trainer.is_global_zero:
            write_text(plan_path(self.folder), self._plan.to_json())
        trainer.strategy.barrier()
        self._own, self._made = loader.begin(shards, done), 0
        self._clips: list[CachedClip] = []
        self._start = time.monotonic()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: dict[str, Tensor],
        batch_indices: Sequence[int] | None,
        batch: EncodingBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the latents of a batch, ``prediction["latent"]`` ``(B, d, t, h, w)``, and write the shard that it completes."""
        said = zip(batch["label"].tolist(), batch["caption"], batch["index"].tolist(), strict=True)
        self._clips += [CachedClip(latent, *rest) for latent, rest in zip(prediction["latent"].cpu(), said, strict=True)]
        if not batch["last"]:
            return
        with atomic_write(shard_path(self.folder, batch["shard"].name)) as path:
            write_shard(path, self._plan, batch["shard"], self._clips)
        self._made += len(self._clips)
        self._clips = []
        left = (time.monotonic() - self._start) / self._made * (self._own - self._made)
        rank_zero_info(f"encoded {self._made} of {self._own} clips, about {left:.0f} s left")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier()
        shards, done = list(self._plan.shards()), shard_files(self.folder)
        there = [shard.name for shard in shards if shard.name in done]
        size = sum(shard_path(self.folder, name).stat().st_size for name in there)
        rank_zero_info(f"{self.folder} has {len(there)} of {len(shards)} shards, {size / 1e6:.1f} MB")

    def _new_plan(self, trainer: Trainer, pl_module: LightningModule, splits: dict[str, int]) -> CachePlan:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        tokenizer: Any = pl_module.tokenizer
        latent = tokenizer.latent_shape(data.clip)
        return CachePlan(
            tokenizer=tokenizer.identity(),
            source=str(origin(trainer, pl_module)["checkpoint"]),
            preprocessing=data.preprocessing,
            clip=data.clip,
            latent=latent,
            temporal_factor=tokenizer.shape.temporal_factor,
            numbers=self.numbers,
            splits=splits,
            same=data.same_splits,
            class_names=data.class_names,
            captions=data.captions,
            clips_per_shard=clips_of_shard(latent, self.numbers),
        )

    def _announce(self, missing: list, shards: int) -> None:
        """Say how much will be written before any of it is."""
        plan, size = self._plan, self._plan.bytes_of(missing)
        clips = sum(shard.count for shard in missing)
        shape = " x ".join(map(str, plan.latent))
        rank_zero_info(
            f"{clips} of {sum(plan.splits.values())} clips to encode, {shape} numbers each as {plan.numbers}: {size / 1e6:.1f} MB "
            f"in {len(missing)} of {shards} shards"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise ValueError(f"{self.folder} needs {size / 1e9:.1f} GB of disc, {free / 1e9:.1f} GB are free")
