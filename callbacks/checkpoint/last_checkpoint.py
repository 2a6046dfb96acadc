"""The one checkpoint of a run: written every so many steps, at the end and on SIGTERM, always under the same name."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from callbacks.checkpoint.atomic_checkpoint import AtomicCheckpointIO
from callbacks.checkpoint.distributed_sigterm import DistributedSigterm


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``<dirpath>/last.ckpt`` current; ``--ckpt_path last`` continues from it.

    Lightning's own callback leaves out the steps after the last multiple of ``every_n_train_steps``; this one saves the end as well, and
    the step at which a scheduler takes the machine away (SIGTERM). A folder that cannot hold checkpoints is refused before training.
    To keep more, such as the best of a metric, add Lightning's ``ModelCheckpoint`` to ``trainer.callbacks``.

    Args:
        dirpath: Folder of the checkpoint.
        every_n_train_steps: Steps from one writing to the next; what an interruption may cost.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int = 1000) -> None:
        super().__init__(dirpath=dirpath, filename="last", every_n_train_steps=every_n_train_steps, enable_version_counter=False)
        self._stop = DistributedSigterm()

    @property
    def path(self) -> Path:
        return Path(f"{self.dirpath}/{self.filename}.ckpt")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take over: where another run kept its checkpoint does not matter here."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """
        Raises:
            ValueError: If the folder cannot be written to or has no room for a checkpoint beside the one before; on all processes.
        """
        complaint = None
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            complaint = check_folder(self.path.parent, checkpoint_bytes(pl_module))
        if complaint := trainer.strategy.broadcast(complaint):
            raise ValueError(complaint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._stop.watch(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *batch)
        self._stop.agree(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        # Not when training has ended: averaged weights have then replaced those that a continued run needs.
        if trainer.fit_loop.done and trainer.global_step % self._every_n_train_steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """On SIGTERM, which Lightning raises between two steps, or within a validation, where averaged weights stand in for the others."""
        if isinstance(exception, SIGTERMException) and trainer.training:
            self._write(trainer)
            rank_zero_info(f"SIGTERM: step {trainer.global_step} is saved as {self.path}; --ckpt_path last continues")

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)


def checkpoint_bytes(model: LightningModule) -> int:
    """About how large a checkpoint will be: all weights, and two averages for those that are trained, as AdamW keeps them."""
    return sum(value.numel() * value.element_size() * (3 if value.requires_grad else 1) for value in model.parameters())


def check_folder(folder: Path, size: int) -> str | None:
    """What is wrong with a folder that shall take checkpoints of ``size`` bytes, in one line; None if nothing is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return f"checkpoints cannot be written to {folder}: {error.strerror}"
    old = sum(path.stat().st_size for place in folder.glob("last.ckpt") for path in (place.glob("*") if place.is_dir() else [place]))
    # A checkpoint is written beside the one before, which is then removed.
    needed, free = 2 * size - min(old, size), shutil.disk_usage(folder).free
    if free < needed:
        return (
            f"{folder} has {free / 1e9:.2f} GB left and checkpoints need {needed / 1e9:.2f} GB, as one is written beside the one before: "
            "make room, or give --checkpoint.dirpath on another disk"
        )
    return None
