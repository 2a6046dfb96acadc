"""Balance and entropy of a tokenizer's bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

# A bit is dead if one of its values is rarer than this.
DEAD = 0.01


class BitUse(Metric):
    """Balance and entropy of each bit at each scale, over positions, frames and clips, and the residual energy after each scale.

    Args:
        scales: Number of scales.
        bits: Bits per token ``d``.
    """

    full_state_update = False
    ones: Tensor
    tokens: Tensor
    residual: Tensor
    clips: Tensor

    def __init__(self, scales: int, bits: int) -> None:
        super().__init__()
        for name, shape in {"ones": (scales, bits), "tokens": (scales,), "residual": (scales,), "clips": ()}.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, bits: Sequence[Tensor], residual_energy: Tensor) -> None:
        """Add a batch.

        Args:
            bits: ``(B, t, h_k, w_k, d)`` of each scale, 0 or 1.
            residual_energy: ``(K,)`` fraction of the latent's energy that remains after each scale.
        """
        self.ones += torch.stack([scale.flatten(0, -2).sum(dim=0) for scale in bits])
        self.tokens += self.tokens.new_tensor([scale[..., 0].numel() for scale in bits])
        self.residual += residual_energy.double() * len(bits[0])
        self.clips += len(bits[0])

    def compute(self) -> dict[str, Tensor]:
        """Values of each scale, and totals.

        Returns:
            For each scale the mean fraction of ones ``balance``, the largest deviation of a bit from 0.5 ``worst_imbalance``, the mean
            ``entropy`` in bits (at most 1), the number of ``dead`` bits and the residual energy ``left``; over all scales ``dead`` and
            ``effective_per_clip``, the sum of the entropies of all bits of a clip.
        """
        fraction = self.ones / self.tokens[:, None]
        entropy = torch.special.entr(fraction) + torch.special.entr(1 - fraction)
        entropy = entropy / torch.log(entropy.new_tensor(2.0))
        dead = ((fraction < DEAD) | (fraction > 1 - DEAD)).sum(dim=1)
        by_scale = {
            "balance": fraction.mean(dim=1),
            "worst_imbalance": (fraction - 0.5).abs().amax(dim=1),
            "entropy": entropy.mean(dim=1),
            "dead": dead,
            "left": self.residual / self.clips,
        }
        result = {f"scale{scale}/{name}": value.float() for name, values in by_scale.items() for scale, value in enumerate(values)}
        effective = (entropy.sum(dim=1) * self.tokens / self.clips).sum()
        return result | {"dead": dead.sum().float(), "effective_per_clip": effective.float()}
