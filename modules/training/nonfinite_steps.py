"""What happens to a step whose gradient is not finite: it is skipped and counted, and too many in a row stop the run."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class NonFiniteGuard:
    """Lets steps with finite gradients pass.

    The norm is that of all processes' mean gradient, so all of them decide alike.

    Args:
        clip: Greatest norm of the gradient; larger ones are scaled down. 0 leaves them.
        patience: So many skipped steps in a row end the run.

    Raises:
        ValueError: For a negative ``clip`` or a ``patience`` below 1.
    """

    def __init__(self, clip: float, patience: int) -> None:
        if clip < 0 or patience < 1:
            raise ValueError(f"gradient_clip must not be negative and patience at least 1, got {clip} and {patience}")
        self.clip, self.patience = clip, patience
        self.skipped = 0
        self._in_a_row = 0

    def norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Norm of the gradient, which is clipped."""
        return nn.utils.clip_grad_norm_(parameters, self.clip or float("inf"))

    def passes(self, norm: Tensor, what: str) -> bool:
        """Whether to make the step; counts it if not.

        Args:
            norm: Norm of its gradient.
            what: What to say about the batch.

        Raises:
            ValueError: If this is the last of ``patience`` such steps in a row.
        """
        if torch.isfinite(norm):
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        if self._in_a_row == self.patience:
            raise ValueError(
                f"{self.patience} steps in a row had gradients that are not finite, the last one for {what}: "
                "lower the learning rate, start the adversary later, or look at these clips"
            )
        return False
