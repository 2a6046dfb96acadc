"""Optimizer step under manual optimization that is skipped for non-finite gradients."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from modules.training.nonfinite_steps import NonFiniteGuard


class GuardedStep(NonFiniteGuard):
    """Step of one of several alternating networks: backward, gradient clipping, optimizer, schedule.

    Only steps of the first optimizer count as global steps: Lightning's wrapper, which counts them, is bypassed for the others.

    Args:
        index: Index of optimizer and schedule in the result of ``configure_optimizers``.
        clip: Maximum gradient norm; 0 disables clipping.
        patience: Number of consecutive skipped steps that ends the run.
    """

    def __init__(self, index: int, clip: float, patience: int) -> None:
        super().__init__(clip, patience)
        self.index = index

    def __call__(self, module: LightningModule, network: nn.Module, loss: Tensor, clips: list[int]) -> tuple[Tensor, bool]:
        """Minimise ``loss`` with one step of ``network``; return the gradient norm and whether the step was applied.

        Raises:
            ValueError: After ``patience`` consecutive skipped steps; it names the ``clips`` of the batch.
        """
        optimizer = _as_list(module.optimizers(use_pl_optimizer=self.index == 0))[self.index]
        optimizer.zero_grad()
        module.manual_backward(loss)
        norm = self.clip_gradients(network.parameters())
        applied = self.allows(norm, f"clips {clips}")
        if applied:
            optimizer.step()
            _as_list(module.lr_schedulers())[self.index].step()
        else:
            rank_zero_warn(f"step {module.global_step} skipped: gradient norm {norm.item()} for clips {clips}")
        return norm, applied


def _as_list(found: Any) -> list[Any]:
    """Return a list, because Lightning returns a single optimizer or schedule without one."""
    return found if isinstance(found, list) else [found]
