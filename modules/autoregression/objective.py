"""Bitwise cross-entropy (paper 4.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.geometry import Layout


def bit_loss(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean binary cross-entropy per bit in nats; ln 2 for an untrained model.

    Args:
        logits: ``(B, L, d)``.
        targets: ``(B, L, d)`` bool.
        weights: ``(L,)`` weight of every token with a mean of 1 (:class:`modules.autoregression.ScaleWeights`); equal if not given.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), None if weights is None else weights[:, None])


@torch.no_grad()
def loss_by_scale(logits: Tensor, targets: Tensor, layout: Layout) -> Tensor:
    """Unweighted :func:`bit_loss` of every scale, ``(K,)``, averaged over clips and frames."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none").mean(dim=(0, 2))
    scales = losses.view(layout.frames, -1).mean(dim=0).split(layout.pyramid.areas)
    return torch.stack([scale.mean() for scale in scales])
