"""Animations and videos of many formats as MP4 files of one kind: a stated rate, a stated size, nothing transparent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
from PIL import Image, ImageColor
from torch import Tensor

from datamodules.decoding.frames import DecodeError, at_rate, opened
from datamodules.decoding.pixels import pixels_of
from datamodules.decoding.reader import IMAGES, VIDEOS, opened_image, upright_pixels
from datamodules.decoding.transforms import CENTRE
from modules.storage.atomic_files import atomic_write

# What Pillow reads; it may move or not.
DRAWN = IMAGES | {".gif", ".apng"}

# All that can be converted.
SOURCES = DRAWN | VIDEOS

# Browsers show a frame that claims less than 20 ms for a tenth of a second, and so do we.
SHORTEST, INSTEAD = 0.02, 0.1

# x264's constant rate factor: below what the eye sees, yet a fraction of a lossless file.
QUALITY = "12"

# Seconds by which rounded durations may be wrong.
SLACK = 1e-3


@dataclass(frozen=True)
class Recipe:
    """How files are made.

    Args:
        fps: Frames per second of the videos.
        short_side: Pixels of the shorter side; None for the file's own size. Sides become even numbers in any case.
        background: What lies behind transparent parts: a name or "#rrggbb".

    Raises:
        ValueError: If a number is too small or there is no such colour.
    """

    fps: float = 8.0
    short_side: int | None = None
    background: str = "#ffffff"

    def __post_init__(self) -> None:
        if self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps:g}")
        if self.short_side is not None and self.short_side < 2:
            raise ValueError(f"short_side must be at least 2, got {self.short_side}")
        ImageColor.getrgb(self.background)

    @property
    def colour(self) -> tuple[int, int, int]:
        """The background as red, green and blue."""
        red, green, blue, *_ = ImageColor.getrgb(self.background)
        return red, green, blue

    def shaped(self, pixels: Tensor) -> Tensor:
        """``(3, h, w)`` uint8 at the size to write, of the same shape to within a pixel."""
        rows, columns = pixels.shape[1:]
        scale = self.short_side / min(rows, columns) if self.short_side else 1.0
        return CENTRE(pixels, *(max(2, 2 * round(side * scale / 2)) for side in (rows, columns)))


class Made(NamedTuple):
    """A file that was made; ``seconds`` is 0 for pictures."""

    path: Path
    frames: int
    seconds: float
    height: int
    width: int


def convert(source: Path, video: Path, picture: Path, recipe: Recipe) -> Made:
    """Writes an MP4 file of what moves, or a PNG file of what does not; it is whole or not there.

    Args:
        source: A file with one of the suffixes ``SOURCES``.
        video: Where to write a video.
        picture: Where to write a picture.
        recipe: How.

    Raises:
        UnreadableVideo: If the source cannot be read to its end.
    """
    if source.suffix.lower() not in DRAWN:
        with opened(source) as (container, stream):
            shown = (pixels_of(frame, recipe.colour) for frame in at_rate(container, stream, recipe.fps))
            return _write_video(video, shown, recipe)
    with opened_image(source) as image:
        if getattr(image, "n_frames", 1) > 1:
            return _write_video(video, _moving(image, recipe), recipe)
        pixels = recipe.shaped(upright_pixels(image, recipe.colour))
        with atomic_write(picture) as temporary:
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(temporary, "PNG")
        return Made(picture, 1, 0.0, *pixels.shape[1:])


def _moving(image: Image.Image, recipe: Recipe) -> Iterator[Tensor]:
    """What an animation shows at the times ``k / fps``."""
    number, end = 0, 0.0
    for place in range(getattr(image, "n_frames", 1)):
        image.seek(place)
        pixels = upright_pixels(image, recipe.colour)
        length = image.info.get("duration", 0) / 1000
        end += length if length >= SHORTEST else INSTEAD
        while number / recipe.fps < end - SLACK:
            yield pixels
            number += 1


def _write_video(path: Path, shown: Iterator[Tensor], recipe: Recipe) -> Made:
    count, size = 0, None
    with atomic_write(path) as temporary, av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(recipe.fps).limit_denominator(1001), options={"crf": QUALITY})
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for pixels in map(recipe.shaped, shown):
            if size is None:
                size = pixels.shape
                _, stream.height, stream.width = size
            elif size != pixels.shape:
                raise DecodeError("its frames change their size")
            frame = av.VideoFrame.from_ndarray(pixels.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode())
    return Made(path, count, count / recipe.fps, stream.height, stream.width)
