"""Writer of a cache of latents: all clips of a data set, encoded once."""

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

from callbacks.records.provenance import sampling_provenance
from modules.batch import EncodingBatch
from modules.storage.atomic_files import atomic_write, write_text
from modules.storage.latents import (
    CachedClip,
    CacheHeader,
    Shard,
    StorageDtype,
    clips_of_shard,
    header_path,
    open_header,
    shard_files,
    shard_path,
    write_shard,
)


class WriteLatents(BasePredictionWriter):
    """Writes the latents that a tokenizer's ``predict`` encodes into a folder for ``datamodules.CachedLatents``.

    The folder has ``cache.json`` and, for every split, shards of up to 64 MB. Shards are written atomically and existing ones are
    skipped, so an interrupted run continues when it is started again. Every process writes its own shards, to a folder that all of them
    share; the files do not depend on the number of processes. Before anything is written, the size is logged and compared with the free
    disk space.

    Args:
        folder: Folder to write to, created if missing.
        dtype: Storage type of the latents. "float16" takes half the space and changes about one bit in 8000.
    """

    def __init__(self, folder: str, dtype: StorageDtype = "float32") -> None:
        super().__init__("batch")
        self.folder = Path(folder)
        self.dtype: StorageDtype = dtype

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Distribute the missing shards. This is not in ``setup``, where the tokenizer's weights are not loaded yet.

        Raises:
            ValueError: If the data module has no clips, the folder has another cache, or the disk has too little space.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader: Any = trainer.predict_dataloaders
        if not hasattr(loader, "begin"):
            raise ValueError(f"latents are encoded from clips, which {type(data).__name__} does not have: remove configs/reconstruct.yaml")
        self._header, exists = open_header(self.folder, self._new_header(trainer, pl_module, loader.lengths))
        shards, done = list(self._header.shards()), shard_files(self.folder)
        self._check_space([shard for shard in shards if shard.name not in done], len(shards))
        if not exists and trainer.is_global_zero:
            write_text(header_path(self.folder), self._header.to_json())
        trainer.strategy.barrier()
        self._own_clips, self._done_clips = loader.begin(shards, done), 0
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
        """Collect the latents of a batch, ``prediction["latent"]`` ``(B, d, t, h, w)``, and write the shard that it completes."""
        labels = zip(batch["label"].tolist(), batch["caption"], batch["index"].tolist(), strict=True)
        self._clips += [CachedClip(latent, *rest) for latent, rest in zip(prediction["latent"].cpu(), labels, strict=True)]
        if not batch["last"]:
            return
        with atomic_write(shard_path(self.folder, batch["shard"].name)) as path:
            write_shard(path, self._header, batch["shard"], self._clips)
        self._done_clips += len(self._clips)
        self._clips = []
        left = (time.monotonic() - self._start) / self._done_clips * (self._own_clips - self._done_clips)
        rank_zero_info(f"encoded {self._done_clips} of {self._own_clips} clips, about {left:.0f} s left")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.strategy.barrier()
        shards, done = list(self._header.shards()), shard_files(self.folder)
        written = [shard.name for shard in shards if shard.name in done]
        size = sum(shard_path(self.folder, name).stat().st_size for name in written)
        rank_zero_info(f"{self.folder} has {len(written)} of {len(shards)} shards, {size / 1e6:.1f} MB")

    def _new_header(self, trainer: Trainer, pl_module: LightningModule, splits: dict[str, int]) -> CacheHeader:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        tokenizer: Any = pl_module.tokenizer
        latent = tokenizer.latent_shape(data.clip)
        return CacheHeader(
            tokenizer=tokenizer.fingerprint(),
            source=str(sampling_provenance(trainer, pl_module)["checkpoint"]),
            preprocessing=data.preprocessing,
            clip=data.clip,
            latent=latent,
            temporal_factor=tokenizer.shape.temporal_factor,
            dtype=self.dtype,
            splits=splits,
            same=data.same_splits,
            class_names=data.class_names,
            captions=data.captions,
            clips_per_shard=clips_of_shard(latent, self.dtype),
        )

    def _check_space(self, missing: list[Shard], shards: int) -> None:
        """Log the size of the missing shards; raises ``ValueError`` if the disk has less space."""
        header, size = self._header, self._header.bytes_of(missing)
        clips = sum(shard.count for shard in missing)
        shape = " x ".join(map(str, header.latent))
        rank_zero_info(
            f"{clips} of {sum(header.splits.values())} clips to encode, {shape} values each as {header.dtype}: {size / 1e6:.1f} MB "
            f"in {len(missing)} of {shards} shards"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise ValueError(f"{self.folder} needs {size / 1e9:.1f} GB of disk space, {free / 1e9:.1f} GB are free")
