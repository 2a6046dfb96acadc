"""Steps that would harm a run, or that tell of harm: gradients that are not finite are not applied, sudden losses are reported."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from modules.training.nonfinite_steps import NonFiniteGuard

FILE = "suspicious_steps.jsonl"


class SkipNonFiniteSteps(Callback):
    """Skips steps whose gradient is not finite, counts them, and ends the run after too many in a row; reports spikes of the loss.

    Both go to ``<default_root_dir>/suspicious_steps.jsonl`` with the numbers of the clips (``index`` of the batch), those of all batches
    that a step accumulates. A skipped step leaves weights and optimizer as they were and counts as a step of the run. For models that
    leave the optimizer to Lightning; LitTokenizer does the same by itself.

    Args:
        patience: So many skipped steps in a row end the run.
        deviations: A loss is a spike if it is so many standard deviations above the mean of the last ``window`` ones.
        window: How many losses are remembered; nothing is a spike before there are as many.

    Raises:
        ValueError: For a ``patience`` below 1, a ``window`` below 2, or ``deviations`` that are not positive.
    """

    def __init__(self, patience: int = 20, deviations: float = 6.0, window: int = 100) -> None:
        if window < 2 or deviations <= 0:
            raise ValueError(f"window must be at least 2 and deviations positive, got {window} and {deviations}")
        self.steps = NonFiniteGuard(0.0, patience)
        self.deviations = deviations
        self._losses: deque[float] = deque(maxlen=window)
        self._clips: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._clips += batch["index"].tolist()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Throw away a gradient that is not finite, after which the optimizer has nothing to do.

        Raises:
            ValueError: If this is the last of ``patience`` such steps in a row.
        """
        norm = whole(self.steps.norm(pl_module.parameters()))
        if torch.isfinite(norm):
            self.steps.passes(norm, "")
            return
        optimizer.zero_grad()
        path = self._note(trainer, "skipped", gradient_norm=str(norm.item()))
        rank_zero_warn(f"step {trainer.global_step} skipped: the gradient's norm is {norm.item()}; its clips are in {path}")
        self.steps.passes(norm, f"clips {self._clips}, which are in {path}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        if self.is_spike(loss):
            path = self._note(trainer, "spike", loss=loss, mean=statistics.fmean(self._losses))
            rank_zero_warn(f"the loss is {loss:.4g} at step {trainer.global_step}, {path} has the clips")
        elif math.isfinite(loss):
            self._losses.append(loss)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            self._clips = []

    def is_spike(self, loss: float) -> bool:
        """Whether a loss is far above those before."""
        if len(self._losses) < (self._losses.maxlen or 0):
            return False
        return loss > statistics.fmean(self._losses) + self.deviations * statistics.pstdev(self._losses)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.steps.skipped:
            rank_zero_warn(f"skipped, as gradients were not finite: {self.steps.skipped} steps")

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.steps.skipped, "losses": list(self._losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.steps.skipped = state_dict["skipped"]
        self._losses.extend(state_dict["losses"])

    def _note(self, trainer: Trainer, what: str, **values: Any) -> Path:
        """Add a line; every process has a file of its own, as every process has clips of its own."""
        path = Path(trainer.default_root_dir) / FILE
        if trainer.world_size > 1:
            path = path.with_suffix(f".rank{trainer.global_rank}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": trainer.global_step, "what": what, **values, "clips": self._clips}) + "\n")
        return path


def whole(norm: Tensor) -> Tensor:
    """A norm of sharded gradients as one number, the same on all processes."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]
