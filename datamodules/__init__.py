"""What is seen: sources of clips."""

from datamodules.base import Beginning, ClipDataModule
from datamodules.mixture import Mixture
from datamodules.moving_digits import MovingDigits
from datamodules.prompts import Prompts
from datamodules.ucf101 import UCF101
from datamodules.video_buckets import VideoBuckets
from datamodules.video_files import VideoFiles
from datamodules.video_folder import VideoFolder
from datamodules.views import FixedViews, FreshViews

__all__ = [
    "UCF101",
    "Beginning",
    "ClipDataModule",
    "FixedViews",
    "FreshViews",
    "Mixture",
    "MovingDigits",
    "Prompts",
    "VideoBuckets",
    "VideoFiles",
    "VideoFolder",
]
