"""Conversion of animations, videos and images to MP4 and PNG files of one frame rate and size, without transparency.

Pillow reads the animations: libav does not decode animated WebP.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageColor, ImageSequence
from torch import Tensor

from callbacks.writers.mp4 import Mp4Writer
from datamodules.decoding.frames import at_rate, opened
from datamodules.decoding.pixels import pixels_of
from datamodules.decoding.reader import IMAGES, VIDEOS, opened_image, upright_pixels
from datamodules.decoding.transforms import CENTRE
from modules.storage.atomic_files import atomic_write

# Formats read by Pillow, animated or not.
PILLOW_FORMATS = IMAGES | {".gif", ".apng"}

SOURCES = PILLOW_FORMATS | VIDEOS

# As browsers do: a frame of less than 20 ms is shown for 100 ms.
MIN_SECONDS, DEFAULT_SECONDS = 0.02, 0.1

# Rounding error of durations in seconds.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Recipe:
    """Format of the converted files.

    Args:
        fps: Frames per second of the videos.
        short_side: Pixels of the shorter side; None keeps the size of the file. Sides are rounded to even numbers.
        background: Colour behind transparent parts: a name or "#rrggbb".

    Raises:
        ValueError: If a number is too small or the colour is unknown.
    """

    fps: float = 8.0
    short_side: int | None = None
    background: str = "#ffffff"

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps:g}")
        if self.short_side is not None and self.short_side < 2:
            raise ValueError(f"short_side must be at least 2, got {self.short_side}")
        try:
            ImageColor.getrgb(self.background)
        except ValueError:
            raise ValueError(f"background must be a colour name or #rrggbb, got {self.background}") from None

    @property
    def colour(self) -> tuple[int, int, int]:
        """Red, green and blue of the background."""
        red, green, blue, *_ = ImageColor.getrgb(self.background)
        return red, green, blue

    def resize(self, pixels: Tensor) -> Tensor:
        """Resize ``(3, h, w)`` uint8 to the output size; the aspect ratio is kept to within a pixel."""
        height, width = pixels.shape[1:]
        scale = self.short_side / min(height, width) if self.short_side else 1.0
        return CENTRE(pixels, *(max(2, 2 * round(side * scale / 2)) for side in (height, width)))


class ConvertedFile(NamedTuple):
    """A written file; ``seconds`` is 0 for images."""

    path: Path
    frames: int
    seconds: float
    height: int
    width: int


def convert(source: Path, video: Path, image: Path, recipe: Recipe, time_limit: float) -> ConvertedFile:
    """Write an MP4 file of a video or animation, or a PNG file of a still image.

    Args:
        source: A file with one of the suffixes ``SOURCES``.
        video: Path of the MP4 file.
        image: Path of the PNG file.
        recipe: Format.
        time_limit: Seconds that decoding a video may take.

    Raises:
        UnreadableVideo: If the source cannot be read to its end.
        ValueError: If its frames change their size.
    """
    if source.suffix.lower() not in PILLOW_FORMATS:
        with opened(source, time_limit) as opened_video:
            frames = (pixels_of(frame, recipe.colour) for frame in at_rate(opened_video, recipe.fps))
            return _write_video(video, frames, recipe)
    with opened_image(source) as animation:
        if getattr(animation, "n_frames", 1) > 1:
            return _write_video(video, _animation_frames(animation, recipe), recipe)
        pixels = recipe.resize(upright_pixels(animation, recipe.colour))
        with atomic_write(image) as temporary:
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(temporary, "PNG")
        return ConvertedFile(image, 1, 0.0, *pixels.shape[1:])


def _animation_frames(animation: Image.Image, recipe: Recipe) -> Iterator[Tensor]:
    """Yield the frames of an animation at the times ``k / fps``."""
    count, end = 0, 0.0
    for frame in ImageSequence.Iterator(animation):
        pixels = upright_pixels(frame, recipe.colour)
        duration = frame.info.get("duration", 0) / 1000
        end += duration if duration >= MIN_SECONDS else DEFAULT_SECONDS
        while count / recipe.fps < end - TOLERANCE:
            yield pixels
            count += 1


def _write_video(path: Path, frames: Iterator[Tensor], recipe: Recipe) -> ConvertedFile:
    count, height, width = 0, 0, 0
    with Mp4Writer(path, recipe.fps) as writer:
        for pixels in map(recipe.resize, frames):
            writer.append(pixels[:, None])
            count += 1
            height, width = pixels.shape[1:]
    return ConvertedFile(path, count, count / recipe.fps, height, width)
