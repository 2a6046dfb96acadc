"""What is seen: sources of clips."""

from datamodules.base import ClipDataModule
from datamodules.cached_latents import CachedLatents
from datamodules.moving_digits import MovingDigits
from datamodules.prompts import Prompts
from datamodules.streamed_latents import StreamedLatents
from datamodules.video_files import VideoFiles
from datamodules.video_folder import VideoFolder

__all__ = ["CachedLatents", "ClipDataModule", "MovingDigits", "Prompts", "StreamedLatents", "VideoFiles", "VideoFolder"]
