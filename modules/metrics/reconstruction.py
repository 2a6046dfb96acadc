"""Everything that is measured of a tokenizer, in training, validation and test alike."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.metrics.bit_use import BitUse
from modules.metrics.frames import FrameQuality
from modules.metrics.motion import Motion


class ReconstructionScores(nn.Module):
    """Pictures, motion and bits of reconstructed clips.

    Args:
        temporal_factor: Video frames per latent frame.
        scales: Number of scales.
        bits: Bits per token.
    """

    def __init__(self, temporal_factor: int, scales: int, bits: int) -> None:
        super().__init__()
        self.frames, self.motion, self.bit_use = FrameQuality(), Motion(temporal_factor), BitUse(scales, bits)

    @torch.no_grad()
    def update(self, video: Tensor, original: Tensor, bits: list[Tensor], left: Tensor) -> None:
        """Add a batch: uint8 videos ``(B, 3, T, H, W)``, the bits of every scale, the share of the latent left after each ``(K,)``."""
        self.frames.update(video, original)
        self.motion.update(video, original)
        self.bit_use.update(bits, left)

    def collect(self) -> dict[str, Tensor]:
        """All numbers by name, over all processes; starts anew."""
        bit_use = {f"bits/{name}": value for name, value in self.bit_use.compute().items()}
        result = {**self.frames.compute(), **self.motion.compute(), **bit_use}
        for metric in (self.frames, self.motion, self.bit_use):
            metric.reset()
        return result
