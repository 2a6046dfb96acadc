"""Bitwise cross-entropy (paper 4.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bit_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy per bit in nats; ln 2 for a model that knows nothing.

    Args:
        logits: ``(B, L, d)``.
        targets: ``(B, L, d)`` bool.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float())
