"""Accuracy of predicted bits, with a majority baseline."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

from modules.geometry import Layout


class BitScores(Metric):
    """Bit accuracy, and the accuracy of always predicting each bit's more frequent value, per latent frame and scale.

    Args:
        layout: Layout of the tokens.
        bits: Bits per token ``d``.
    """

    full_state_update = False
    correct: Tensor
    ones: Tensor
    clips: Tensor

    def __init__(self, layout: Layout, bits: int) -> None:
        super().__init__()
        self.layout = layout
        for name in ("correct", "ones"):
            self.add_state(name, torch.zeros(layout.tokens, bits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("clips", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add logits ``(B, L, d)`` and bool targets of the same shape."""
        self.correct += ((logits > 0) == targets).sum(dim=0)
        self.ones += targets.sum(dim=0)
        self.clips += len(targets)

    def compute(self) -> dict[str, Tensor]:
        """Return ``accuracy`` and ``majority``, each ``(t, K)``, and their means over all bits."""
        ones = self.ones / self.clips
        accuracy, majority = self.correct / self.clips, torch.maximum(ones, 1 - ones)
        return {
            "accuracy": self._by_block(accuracy),
            "majority": self._by_block(majority),
            "mean_accuracy": accuracy.mean(),
            "mean_majority": majority.mean(),
        }

    @staticmethod
    def by_name(result: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the result of :meth:`compute` as scalars by name: the means, and both accuracies of every frame and scale."""
        rows = {"bit_accuracy": result["mean_accuracy"], "bit_accuracy_of_majority": result["mean_majority"]}
        for key in ("accuracy", "majority"):
            rows |= {f"{key}/frame{frame}_scale{scale}": value for frame, row in enumerate(result[key]) for scale, value in enumerate(row)}
        return rows

    def table(self, result: dict[str, Tensor]) -> str:
        """Format the result of :meth:`compute`: a row per latent frame, a column per scale, the majority baseline in brackets."""
        head = [f"{height}x{width}".rjust(15) for height, width in self.layout.pyramid.sizes]
        lines = ["bit accuracy (majority baseline in brackets; chance 0.500)", "scale   " + "".join(head)]
        for frame, rows in enumerate(zip(result["accuracy"], result["majority"], strict=True)):
            cells = [f"{accuracy:.3f} ({majority:.3f})".rjust(15) for accuracy, majority in zip(*rows, strict=True)]
            lines.append(f"frame {frame:2d}" + "".join(cells))
        return "\n".join(lines)

    def _by_block(self, values: Tensor) -> Tensor:
        per_token = values.mean(dim=1).view(self.layout.frames, -1)
        blocks = per_token.split(list(self.layout.pyramid.areas), dim=1)
        return torch.stack([block.mean(dim=1) for block in blocks], dim=1).float()
