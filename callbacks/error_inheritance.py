"""Error inheritance from frame to frame, by training step (paper 4.2)."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.flip_ratio import require_corruption


class ErrorInheritance(Callback):
    """Switches error inheritance on.

    The first scale of every later latent frame then draws its flip ratio between the ratio of the previous frame's last scale and the
    upper end of its own range: in sampling, a frame starts from a history that already contains errors.

    Args:
        start_step: Optimizer step from which errors are inherited; 0 is the paper.

    Raises:
        ValueError: If ``start_step`` is negative.
    """

    def __init__(self, start_step: int = 0) -> None:
        if start_step < 0:
            raise ValueError(f"start_step must not be negative, got {start_step}")
        self.start_step = start_step

    def value(self, step: int) -> bool:
        """Return True if errors are inherited at an optimizer step."""
        return step >= self.start_step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ``TypeError`` if the model has no corruption to schedule."""
        if stage == "fit":
            require_corruption(self, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        corruption = require_corruption(self, pl_module).corruption
        corruption.inherit = self.value(trainer.global_step)
        pl_module.log("train/error_inheritance", float(corruption.inherit))
