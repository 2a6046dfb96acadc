"""Bitwise cross-entropy (paper 4.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def bit_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy per bit in nats; ln 2 for a model that knows nothing.

    Args:
        logits: ``(B, L, d)``.
        targets: ``(B, L, d)`` bool.
        weights: ``(L,)`` weight of every token with a mean of 1 (:class:`modules.autoregression.ScaleWeights`); equal if not given.
    """
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits.float(), targets.float())
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), weights[:, None])
