"""Callback that keeps the last checkpoint of a run under a constant name."""

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
    """Keeps ``<dirpath>/last.ckpt`` up to date; ``--ckpt_path last`` resumes from it.

    Lightning's own callback skips the steps after the last multiple of ``every_n_train_steps``. This one also saves at the end of training
    and on SIGTERM, which schedulers send before they reclaim a machine. A folder that cannot hold checkpoints is refused before
    training. To keep more checkpoints, for example the best by a metric, add Lightning's ``ModelCheckpoint`` to ``trainer.callbacks``.

    Args:
        dirpath: Folder of the checkpoint.
        every_n_train_steps: Steps between two checkpoints, the most that an interruption can cost.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int = 1000) -> None:
        super().__init__(dirpath=dirpath, filename="last", every_n_train_steps=every_n_train_steps, enable_version_counter=False)
        self._sigterm = DistributedSigterm()

    @property
    def path(self) -> Path:
        return Path(f"{self.dirpath}/{self.filename}.ckpt")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = AtomicCheckpointIO()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Ignore the state: the path of the checkpoint that is resumed does not matter here."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """
        Raises:
            ValueError: On all processes, if the folder is not writable or has no room for a checkpoint beside the previous one.
        """
        problem = None
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            problem = check_folder(self.path.parent, checkpoint_bytes(pl_module))
        if problem := trainer.strategy.broadcast(problem):
            raise ValueError(problem)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._sigterm.watch(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *batch)
        self._sigterm.agree(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        # Not in on_train_end: averaged weights have then replaced those that a resumed run needs.
        if trainer.fit_loop.done and trainer.global_step % self._every_n_train_steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save on SIGTERM, which Lightning raises between two steps, but not during validation, where averaged weights are swapped in."""
        if isinstance(exception, SIGTERMException) and trainer.training:
            self._write(trainer)
            rank_zero_info(f"SIGTERM: step {trainer.global_step} is saved as {self.path}; --ckpt_path last resumes")

    def _write(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)


def checkpoint_bytes(model: LightningModule) -> int:
    """Return the approximate size of a checkpoint: all weights, and the two averages that AdamW keeps of the trained ones."""
    return sum(value.numel() * value.element_size() * (3 if value.requires_grad else 1) for value in model.parameters())


def check_folder(folder: Path, size: int) -> str | None:
    """Return why checkpoints of ``size`` bytes cannot be written to a folder, in one line, or None if they can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return f"checkpoints cannot be written to {folder}: {error.strerror}"
    old = sum(
        path.stat().st_size
        for checkpoint in folder.glob("last.ckpt")
        for path in (checkpoint.glob("*") if checkpoint.is_dir() else [checkpoint])
    )
    # A checkpoint is written beside the previous one, which is then removed.
    needed, free = 2 * size - min(old, size), shutil.disk_usage(folder).free
    if free < needed:
        return (
            f"{folder} has {free / 1e9:.2f} GB left and checkpoints need {needed / 1e9:.2f} GB, as each is written beside the previous "
            "one: free some space, or set --checkpoint.dirpath to another disk"
        )
    return None
