"""Measures, on torchmetrics."""

from modules.metrics.bit_use import BitUse
from modules.metrics.bits import BitScores
from modules.metrics.evaluation.comparison import RealVideos, closest, copy_rows, distance_rows, variety_rows
from modules.metrics.evaluation.protocol import Protocol
from modules.metrics.evaluation.results import Results, Row, origin, table
from modules.metrics.features.frame_features import FrameFeatures, RandomFeatures, ScriptedFrameFeatures
from modules.metrics.features.i3d import I3D
from modules.metrics.features.mobilenet import MobileNetFeatures
from modules.metrics.features.video_features import VideoFeatures
from modules.metrics.frames import FrameQuality
from modules.metrics.frechet import FrechetVideoDistance, frechet_distance
from modules.metrics.kernel import kernel_distance
from modules.metrics.motion import Motion
from modules.metrics.reconstruction import ReconstructionScores

__all__ = [
    "I3D",
    "BitScores",
    "BitUse",
    "FrameFeatures",
    "FrameQuality",
    "FrechetVideoDistance",
    "MobileNetFeatures",
    "Motion",
    "Protocol",
    "RandomFeatures",
    "RealVideos",
    "ReconstructionScores",
    "Results",
    "Row",
    "ScriptedFrameFeatures",
    "VideoFeatures",
    "closest",
    "copy_rows",
    "distance_rows",
    "frechet_distance",
    "kernel_distance",
    "origin",
    "table",
    "variety_rows",
]
