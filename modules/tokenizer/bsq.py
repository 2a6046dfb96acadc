"""Binary spherical quantisation: sign bits, codes of unit length, commitment and entropy losses (paper 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Inverse temperature of the soft bits in the entropy terms, as in the published recipe.
INVERSE_TEMPERATURE = 100.0


def to_bits(values: Tensor) -> Tensor:
    """Sign bits of ``values``, bool; zero gives 0."""
    return values > 0


def to_codes(bits: Tensor, dim: int = 1) -> Tensor:
    """Bits to codes of unit length: ``+-1/sqrt(d)`` with ``d`` the size of ``dim``."""
    return (bits.float() * 2.0 - 1.0) / bits.shape[dim] ** 0.5


def straight_through(values: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise with a straight-through gradient.

    Args:
        values: ``(B, d, h, w)`` residuals.

    Returns:
        Residuals normalised to the unit sphere, and their codes, whose gradient is passed to the former.
    """
    sphere = F.normalize(values, dim=1)
    codes = to_codes(to_bits(sphere))
    return sphere, sphere + (codes - sphere).detach()


def commitment(sphere: Tensor, codes: Tensor) -> Tensor:
    """Mean squared distance of normalised residuals from their codes."""
    return F.mse_loss(sphere, codes.detach())


def entropy_penalty(sphere: Tensor) -> Tensor:
    """Mean conditional entropy of the bits minus their entropy over the batch; minimal for confident, balanced bits.

    In nats, summed over bits, divided by the inverse temperature as in the published recipe.
    """
    logits = 4.0 * INVERSE_TEMPERATURE * sphere / sphere.shape[1] ** 0.5
    probability = torch.sigmoid(logits)
    conditional = _binary_entropy(probability).sum(dim=1).mean()
    marginal = _binary_entropy(probability.mean(dim=(0, 2, 3))).sum()
    return (conditional - marginal) / INVERSE_TEMPERATURE


def _binary_entropy(probability: Tensor) -> Tensor:
    other = 1.0 - probability
    return -(probability * (probability + 1e-8).log() + other * (other + 1e-8).log())
