"""Scores of a tokenizer in training, validation and test."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.metrics.bit_use import BitUse
from modules.metrics.frames import FrameQuality
from modules.metrics.motion import Motion


class ReconstructionScores(nn.Module):
    """Frame quality, motion and bit statistics of reconstructed clips.

    Args:
        temporal_factor: Video frames per latent frame.
        scales: Number of scales.
        bits: Bits per token.
    """

    def __init__(self, temporal_factor: int, scales: int, bits: int) -> None:
        super().__init__()
        self.frames, self.motion, self.bit_use = FrameQuality(), Motion(temporal_factor), BitUse(scales, bits)

    @torch.no_grad()
    def update(self, video: Tensor, original: Tensor, bits: list[Tensor], residual_energy: Tensor) -> None:
        """Add a batch of uint8 videos ``(B, 3, T, H, W)``; ``bits`` and ``residual_energy`` as in :class:`BitUse`."""
        self.frames.update(video, original)
        self.motion.update(video, original)
        self.bit_use.update(bits, residual_energy)

    def collect(self) -> dict[str, Tensor]:
        """Compute all scores by name over all processes, and reset."""
        bit_use = {f"bits/{name}": value for name, value in self.bit_use.compute().items()}
        result = {**self.frames.compute(), **self.motion.compute(), **bit_use}
        for metric in (self.frames, self.motion, self.bit_use):
            metric.reset()
        return result
