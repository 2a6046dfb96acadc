"""Measures, on torchmetrics."""

from modules.metrics.bits import BitScores
from modules.metrics.frames import FrameQuality

__all__ = ["BitScores", "FrameQuality"]
