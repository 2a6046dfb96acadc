"""Contact sheets of validation clips during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.seed import isolate_rng
from PIL import Image
from torch import Tensor

from callbacks.writers.media import contact_sheet, write_png
from modules.batch import LatentBatch, VideoBatch

Batch = VideoBatch | LatentBatch


@runtime_checkable
class Previews(Protocol):
    """Module that makes named videos ``(B, 3, T, H, W)`` uint8 for a batch."""

    def preview(self, batch: Batch) -> dict[str, Tensor]: ...


class LogVideos(Callback):
    """Logs the model's videos for the first validation clips, one contact sheet per kind of video.

    Weights & Biases and TensorBoard receive the sheets as images. Without either they are written to
    ``<default_root_dir>/images/step_<step>_<kind>.png``.

    Args:
        every_n_validations: Log at every n-th validation of a run, starting with the first.
        clips: Number of clips, limited to the first batch.

    Raises:
        ValueError: If an argument is below 1.
    """

    def __init__(self, every_n_validations: int = 1, clips: int = 4) -> None:
        if every_n_validations < 1 or clips < 1:
            raise ValueError(f"every_n_validations and clips must be at least 1, got {every_n_validations} and {clips}")
        self.every_n_validations, self.clips = every_n_validations, clips
        self._validations = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ``TypeError`` if the model makes no previews."""
        if stage in ("fit", "validate") and not isinstance(pl_module, Previews):
            raise TypeError(f"LogVideos needs a model with a method `preview`; {type(pl_module).__name__} has none")

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx > 0 or dataloader_idx > 0 or trainer.sanity_checking:
            return
        self._validations += 1
        if (self._validations - 1) % self.every_n_validations:
            return
        first = cast(Batch, {name: value[: self.clips] for name, value in batch.items()})  # type: ignore[index]
        assert isinstance(pl_module, Previews)
        # On every process, as FSDP needs all of them. Random draws here must not change those of the training.
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.val_step_context():
            videos = pl_module.preview(first)
        if trainer.is_global_zero:
            for kind, clips in videos.items():
                log_image(trainer, kind, contact_sheet(list(clips), captions(first)))


def captions(batch: Batch) -> list[str]:
    """Return a text per clip: its caption, else its class, else its index."""
    clips = zip(batch["caption"], batch["label"].tolist(), batch["index"].tolist(), strict=True)
    return [caption or (f"class {label}" if label >= 0 else f"clip {index}") for caption, label, index in clips]


def log_image(trainer: Trainer, kind: str, image: Image.Image) -> None:
    """Pass an image to every logger that takes images, or write it to a file if none does."""
    step, logged = trainer.global_step, False
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(f"val/{kind}", [image], step)
            logged = True
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(f"val/{kind}", np.asarray(image), step, dataformats="HWC")
            logged = True
    if not logged:
        write_png(Path(trainer.default_root_dir) / "images" / f"step_{step:07d}_{kind}.png", image)
