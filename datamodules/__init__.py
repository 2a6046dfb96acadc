"""What is seen: sources of clips."""

from datamodules.base import Beginning, ClipDataModule
from datamodules.cached_latents import CachedLatents
from datamodules.mixture import Mixture
from datamodules.moving_digits import MovingDigits
from datamodules.prompts import Prompts
from datamodules.streamed_latents import StreamedLatents
from datamodules.ucf101 import UCF101
from datamodules.vbench import VBenchImagePrompts, VBenchPrompts
from datamodules.video_buckets import VideoBuckets
from datamodules.video_files import VideoFiles
from datamodules.video_folder import VideoFolder
from datamodules.views import FixedViews, FreshViews

__all__ = [
    "UCF101",
    "Beginning",
    "CachedLatents",
    "ClipDataModule",
    "FixedViews",
    "FreshViews",
    "Mixture",
    "MovingDigits",
    "Prompts",
    "StreamedLatents",
    "VBenchImagePrompts",
    "VBenchPrompts",
    "VideoBuckets",
    "VideoFiles",
    "VideoFolder",
]
