"""Metrics of tokens, reconstructions and generated videos, on torchmetrics."""

from modules.metrics.bit_use import BitUse
from modules.metrics.bits import BitScores
from modules.metrics.evaluation.comparison import RealVideos, closest, copy_measurements, distance_measurements, variety_measurements
from modules.metrics.evaluation.protocol import Protocol
from modules.metrics.evaluation.provenance import provenance
from modules.metrics.evaluation.report import Evaluation, Measurement, read_report, write_report
from modules.metrics.features.frame_features import FrameFeatures, RandomFeatures, ScriptedFrameFeatures
from modules.metrics.features.i3d import I3D
from modules.metrics.features.mobilenet import MobileNetFeatures
from modules.metrics.features.video_features import VideoFeatures
from modules.metrics.frames import FrameQuality
from modules.metrics.frechet import FrechetVideoDistance, frechet_distance
from modules.metrics.kernel import kernel_distance
from modules.metrics.motion import Motion
from modules.metrics.reconstruction import ReconstructionScores
from modules.metrics.table import markdown_table

__all__ = [
    "I3D",
    "BitScores",
    "BitUse",
    "Evaluation",
    "FrameFeatures",
    "FrameQuality",
    "FrechetVideoDistance",
    "Measurement",
    "MobileNetFeatures",
    "Motion",
    "Protocol",
    "RandomFeatures",
    "RealVideos",
    "ReconstructionScores",
    "ScriptedFrameFeatures",
    "VideoFeatures",
    "closest",
    "copy_measurements",
    "distance_measurements",
    "frechet_distance",
    "kernel_distance",
    "markdown_table",
    "provenance",
    "read_report",
    "variety_measurements",
    "write_report",
]
