"""How much the bits of a tokenizer say."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

# A bit that is 1 more rarely, or 0 more rarely, than this says nothing.
DEAD = 0.01


class BitUse(Metric):
    """Balance and entropy of every bit at every scale, over all positions, frames and clips, and what each scale leaves over.

    Args:
        scales: Number of scales.
        bits: Bits per token ``d``.
    """

    full_state_update = False
    ones: Tensor
    tokens: Tensor
    left: Tensor
    clips: Tensor

    def __init__(self, scales: int, bits: int) -> None:
        super().__init__()
        self.add_state("ones", torch.zeros(scales, bits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros(scales, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("left", torch.zeros(scales, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, bits: Sequence[Tensor], left: Tensor) -> None:
        """Count bits ``(B, t, h_k, w_k, d)``, 0 or 1, of every scale; ``left`` ``(K,)`` is the share of the latent left after each."""
        self.ones += torch.stack([scale.flatten(0, -2).sum(dim=0) for scale in bits])
        self.tokens += self.tokens.new_tensor([scale[..., 0].numel() for scale in bits])
        self.left += left.double() * len(bits[0])
        self.clips += len(bits[0])

    def compute(self) -> dict[str, Tensor]:
        """Numbers of every scale, and of all.

        Returns:
            For every scale the mean share of ones ``balance``, how far a bit is from it at most ``worst_imbalance``, the mean
            ``entropy`` in bits (at most 1), the number of ``dead`` bits and what is ``left``; over all ``dead`` and
            ``effective_per_clip``, the sum of all bits' entropies.
        """
        share = self.ones / self.tokens[:, None]
        entropy = torch.special.entr(share) + torch.special.entr(1 - share)
        entropy = entropy / torch.log(entropy.new_tensor(2.0))
        dead = ((share < DEAD) | (share > 1 - DEAD)).sum(dim=1)
        by_scale = {
            "balance": share.mean(dim=1),
            "worst_imbalance": (share - 0.5).abs().amax(dim=1),
            "entropy": entropy.mean(dim=1),
            "dead": dead,
            "left": self.left / self.clips,
        }
        result = {f"scale{scale}/{name}": value.float() for name, values in by_scale.items() for scale, value in enumerate(values)}
        effective = (entropy.sum(dim=1) * self.tokens / self.clips).sum()
        return result | {"dead": dead.sum().float(), "effective_per_clip": effective.float()}
