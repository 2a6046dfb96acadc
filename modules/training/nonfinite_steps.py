"""Guard against non-finite gradients: such steps are skipped and counted, and too many consecutive ones end the run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class NonFiniteGuard:
    """Gradient clipping, and the decision whether to apply a step.

    The norm is that of the gradient averaged over all processes, so that all processes make the same decision.

    Args:
        clip: Maximum gradient norm; larger gradients are scaled down. 0 disables clipping.
        patience: Number of consecutive skipped steps that ends the run.

    Raises:
        ValueError: If ``clip`` is negative or ``patience`` below 1.
    """

    def __init__(self, clip: float, patience: int) -> None:
        if clip < 0 or patience < 1:
            raise ValueError(f"gradient_clip must not be negative and patience at least 1, got {clip} and {patience}")
        self.clip, self.patience = clip, patience
        self.skipped = 0
        self._consecutive = 0

    def clip_gradients(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Clip the gradients in place and return their norm before clipping."""
        return nn.utils.clip_grad_norm_(parameters, self.clip or float("inf"))

    def allows(self, norm: Tensor, batch: str) -> bool:
        """Return whether to apply the step; count it as skipped if not.

        Args:
            norm: Gradient norm of the step.
            batch: Description of its batch for the error message.

        Raises:
            ValueError: After ``patience`` consecutive skipped steps.
        """
        if torch.isfinite(norm):
            self._consecutive = 0
            return True
        self.skipped += 1
        self._consecutive += 1
        if self._consecutive == self.patience:
            raise ValueError(
                f"{self.patience} consecutive steps had non-finite gradients, the last one for {batch}: "
                "lower the learning rate, start the discriminators later, or inspect these clips"
            )
        return False
