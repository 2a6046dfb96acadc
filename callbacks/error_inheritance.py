"""Start of error inheritance (paper 4.2, Eq. 8); its formula is in ``modules.autoregression.corruption.BitCorruption.draw_ratios``."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.flip_ratio import require_corruption, require_only_one
from modules.autoregression.corruption import Corrupts
from modules.training.start_steps import check_start_step


class ErrorInheritance(Callback):
    """Error inheritance from an optimizer step on.

    The first scale of every later latent frame then draws its flip ratio between the ratio of the previous frame's last scale and the
    upper end of its own range: in sampling, a frame starts from a history that already contains errors.

    Args:
        start_step: Optimizer step from which errors are inherited (paper: 0).

    Raises:
        ValueError: If ``start_step`` is negative.
    """

    def __init__(self, start_step: int = 0) -> None:
        if start_step < 0:
            raise ValueError(f"start_step must not be negative, got {start_step}")
        self.start_step = start_step

    def value(self, step: int) -> bool:
        """True if errors are inherited at an optimizer step."""
        return step >= self.start_step

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ``TypeError`` if the model has no corruption, ``ValueError`` if it inherits already or ``start_step`` is too late."""
        if stage != "fit":
            return
        require_only_one(ErrorInheritance, trainer)
        corruption = require_corruption(self, pl_module).corruption
        check_start_step("error_inheritance.start_step", self.start_step, trainer.max_steps)
        if corruption.inherit:
            raise ValueError(
                "error inheritance is set twice: model.corruption.inherit is true, and the callback ErrorInheritance switches it. Give "
                "--error_inheritance.start_step alone, or --error_inheritance null"
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the corruption as it was found."""
        if stage == "fit" and isinstance(pl_module, Corrupts):
            pl_module.corruption.inherit = False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        corruption = require_corruption(self, pl_module).corruption
        corruption.inherit = self.value(trainer.global_step)
        pl_module.log("train/error_inheritance", float(corruption.inherit))
