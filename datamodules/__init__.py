"""Data modules: clips, latents of clips, and requests for prediction."""

from datamodules.base import ClipDataModule, StageOverride
from datamodules.clips.cropping import FixedViews, FreshViews
from datamodules.clips.ucf101 import UCF101
from datamodules.clips.video_buckets import VideoBuckets
from datamodules.clips.video_folder import VideoFolder
from datamodules.digits.moving_digits import MovingDigits
from datamodules.latents.cached_latents import CachedLatents
from datamodules.latents.streamed_latents import StreamedLatents
from datamodules.mixture import Mixture
from datamodules.predict.prompts import Prompts
from datamodules.predict.vbench import VBenchImagePrompts, VBenchPrompts
from datamodules.predict.video_files import VideoFiles

__all__ = [
    "UCF101",
    "CachedLatents",
    "ClipDataModule",
    "FixedViews",
    "FreshViews",
    "Mixture",
    "MovingDigits",
    "Prompts",
    "StageOverride",
    "StreamedLatents",
    "VBenchImagePrompts",
    "VBenchPrompts",
    "VideoBuckets",
    "VideoFiles",
    "VideoFolder",
]
