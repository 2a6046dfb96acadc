"""What is seen: sources of clips."""

from datamodules.base import ClipDataModule
from datamodules.moving_digits import MovingDigits
from datamodules.prompts import Prompts
from datamodules.vbench import VBenchImagePrompts, VBenchPrompts
from datamodules.video_files import VideoFiles
from datamodules.video_folder import VideoFolder

__all__ = ["ClipDataModule", "MovingDigits", "Prompts", "VBenchImagePrompts", "VBenchPrompts", "VideoFiles", "VideoFolder"]
