"""Reconstruction and quantiser losses of the tokenizer (paper 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.tokenizer.losses.perceptual import PerceptualLoss
from modules.tokenizer.tokenizer import Reconstruction


@dataclass(frozen=True)
class TokenizerLoss:
    """Weighted sum of reconstruction and quantiser terms.

    Args:
        absolute: Weight of the mean absolute pixel error.
        perceptual: Weight of the perceptual loss; needs its network.
        squared: Weight of the mean squared pixel error; it helps small models to leave the plateau of constant images sooner.
        commitment: Weight of the commitment loss, mean over scales (published recipe: 1).
        entropy: Weight of the entropy penalty, mean over scales (published recipe: 0.4).
        residual: Weight of the residual after the last scale, the mean squared distance of the latent from its quantised sum. It bounds
            the latent (our decision: without it the encoder's output grows until all scales code the same sign).
    """

    absolute: float = 1.0
    perceptual: float = 1.0
    squared: float = 0.0
    commitment: float = 1.0
    entropy: float = 0.4
    residual: float = 0.0

    def __call__(self, result: Reconstruction, video: Tensor, perceptual: PerceptualLoss | None = None) -> dict[str, Tensor]:
        """All unweighted terms by name, and their weighted sum as ``loss``.

        Args:
            result: The tokenizer's output for ``video``.
            video: ``(B, 3, T, H, W)`` in [-1, 1].
            perceptual: Network of the perceptual loss; without it the term is omitted.
        """
        quantized = result.quantized
        terms = {
            "absolute": F.l1_loss(result.video.float(), video),
            "squared": F.mse_loss(result.video.float(), video),
            "commitment": quantized.commitment.mean(),
            "entropy": quantized.entropy.mean(),
            "residual": F.mse_loss(result.latent.float(), quantized.latent.detach()),
        }
        if perceptual is not None and self.perceptual:
            terms["perceptual"] = perceptual(result.video, video)
        return {"loss": torch.stack([getattr(self, name) * term for name, term in terms.items()]).sum(), **terms}
