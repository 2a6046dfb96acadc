"""Measures, on torchmetrics."""

from modules.metrics.bit_use import BitUse
from modules.metrics.bits import BitScores
from modules.metrics.frames import FrameQuality
from modules.metrics.motion import Motion
from modules.metrics.reconstruction import ReconstructionScores

__all__ = ["BitScores", "BitUse", "FrameQuality", "Motion", "ReconstructionScores"]
