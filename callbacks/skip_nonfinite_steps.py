"""Callback that skips steps with non-finite gradients and reports loss spikes."""

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
    """Skips and counts steps with non-finite gradients, ends the run after too many consecutive ones, and reports loss spikes.

    Both are written to ``<default_root_dir>/suspicious_steps.jsonl`` with the clip indices (``index`` of the batch) of all batches that the
    step accumulates. A skipped step changes neither weights nor optimizer and counts as a step of the run. Only for automatic
    optimization; LitTokenizer has its own guard.

    Args:
        patience: Number of consecutive skipped steps that ends the run.
        deviations: A loss is a spike if it exceeds the mean of the last ``window`` losses by this many standard deviations.
        window: Number of previous losses; no spikes are reported before there are as many.

    Raises:
        ValueError: If ``patience`` is below 1, ``window`` below 2, or ``deviations`` not positive.
    """

    def __init__(self, patience: int = 20, deviations: float = 6.0, window: int = 100) -> None:
        if window < 2 or deviations <= 0:
            raise ValueError(f"window must be at least 2 and deviations positive, got {window} and {deviations}")
        self.guard = NonFiniteGuard(0.0, patience)
        self.deviations = deviations
        self._losses: deque[float] = deque(maxlen=window)
        self._clips: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._clips += batch["index"].tolist()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Discard a non-finite gradient, so that the optimizer has nothing to apply.

        Raises:
            ValueError: After ``patience`` consecutive skipped steps.
        """
        norm = full_norm(self.guard.clip_gradients(pl_module.parameters()))
        if torch.isfinite(norm):
            self.guard.allows(norm, "")
            return
        optimizer.zero_grad()
        path = self._record(trainer, "skipped", gradient_norm=str(norm.item()))
        rank_zero_warn(f"step {trainer.global_step} skipped: gradient norm {norm.item()}; its clips are listed in {path}")
        self.guard.allows(norm, f"clips {self._clips}, listed in {path}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches
        if self.is_spike(loss):
            path = self._record(trainer, "spike", loss=loss, mean=statistics.fmean(self._losses))
            rank_zero_warn(f"loss spike at step {trainer.global_step}: {loss:.4g}; its clips are listed in {path}")
        elif math.isfinite(loss):
            self._losses.append(loss)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            self._clips = []

    def is_spike(self, loss: float) -> bool:
        """True if a loss is far above the previous ones."""
        if len(self._losses) < (self._losses.maxlen or 0):
            return False
        return loss > statistics.fmean(self._losses) + self.deviations * statistics.pstdev(self._losses)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.guard.skipped:
            rank_zero_warn(f"{self.guard.skipped} steps with non-finite gradients were skipped")

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.guard.skipped, "losses": list(self._losses)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.guard.skipped = state_dict["skipped"]
        self._losses.extend(state_dict["losses"])

    def _record(self, trainer: Trainer, kind: str, **values: Any) -> Path:
        """Append a line to the file and return its path; each process has its own clips and its own file."""
        path = Path(trainer.default_root_dir) / FILE
        if trainer.world_size > 1:
            path = path.with_suffix(f".rank{trainer.global_rank}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": trainer.global_step, "what": kind, **values, "clips": self._clips}) + "\n")
        return path


def full_norm(norm: Tensor) -> Tensor:
    """Gradient norm as a plain tensor, equal on all processes, also for sharded gradients (DTensor)."""
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # type: ignore[operator]
