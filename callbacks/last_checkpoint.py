"""The one checkpoint of a run: written every so many steps and at the end, always under the same name."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``<dirpath>/last.ckpt`` current; ``--ckpt_path last`` continues from it.

    Lightning's own callback leaves out the steps after the last multiple of ``every_n_train_steps``; this one saves the end as well.
    To keep more, such as the best of a metric, add Lightning's ``ModelCheckpoint`` to ``trainer.callbacks``.

    Args:
        dirpath: Folder of the checkpoint.
        every_n_train_steps: Steps from one writing to the next; what an interruption may cost.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int = 1000) -> None:
        super().__init__(dirpath=dirpath, filename="last", every_n_train_steps=every_n_train_steps, enable_version_counter=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to take over: where another run kept its checkpoint does not matter here."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        # Not when training has ended: averaged weights have then replaced those that a continued run needs.
        if trainer.fit_loop.done and trainer.global_step % self._every_n_train_steps and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.save_checkpoint(f"{self.dirpath}/{self.filename}.ckpt", weights_only=False)
