"""Metadata of video and image files, and the pixels of clips. An image file is a clip of one frame."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from av import VideoFrame
from PIL import Image, ImageOps
from torch import Tensor

from datamodules.decoding.file_kind import why_unreadable
from datamodules.decoding.frames import MAX_PIXELS, DecodeError, UnreadableVideo, nearest, opened
from datamodules.decoding.pixels import WHITE, flattened, pixels_of, upright_size, write_planes
from datamodules.decoding.transforms import CENTRE, Framing
from modules.geometry import Clip

__all__ = ["IMAGES", "Probe", "UnreadableVideo", "display_size", "is_image", "probe", "read_clip"]

# Exif tag of the orientation, and its values that swap height and width.
ORIENTATION, TRANSPOSED = 0x0112, {5, 6, 7, 8}

# Suffixes of videos in a folder.
VIDEOS = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

# Accepted image formats, independent of the suffix. Some other formats of Pillow start external programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


@dataclass(frozen=True)
class Probe:
    """Metadata of a file, read without decoding it.

    Args:
        frames: Number of frames.
        seconds: Duration; 0 for images.
        fps: Mean frame rate; 0 for images.
        height: Stored height in pixels, before rotation metadata is applied.
        width: Stored width in pixels.
    """

    frames: int
    seconds: float
    fps: float
    height: int
    width: int


def is_image(path: Path | str) -> bool:
    """Return whether a file is read as an image, by its suffix. Of an animated image only the first frame is read."""
    return os.path.splitext(path)[1].lower() in IMAGES


def probe(path: Path | str, time_limit: float = math.inf) -> Probe:
    """Return length, rate and size from the header, or from the packets if the header lacks the duration.

    Raises:
        UnreadableVideo: If the file is missing, contains no video, or takes longer than ``time_limit`` seconds.
    """
    if is_image(path):
        height, width = _read_image(path).shape[-2:]
        return Probe(frames=1, seconds=0.0, fps=0.0, height=height, width=width)
    with opened(path, time_limit) as video:
        stream = video.stream
        tick = float(stream.time_base or 0)
        seconds, frames = (stream.duration or 0) * tick, stream.frames
        if seconds <= 0:
            # Packets come in decoding order, so the last one is not always the latest.
            packets = [(packet.pts, packet.duration or 0) for packet in video.packets() if packet.pts is not None]
            if not packets:
                raise DecodeError("the video stream holds no frames")
            end = max(start + length for start, length in packets)
            seconds, frames = (end - min(packets)[0]) * tick, len(packets)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        return Probe(frames or round(seconds * fps), seconds, fps, stream.height, stream.width)


def display_size(path: Path | str, time_limit: float = math.inf) -> tuple[int, int]:
    """Return height and width after rotation: of a video its first frame is decoded, of an image the header is enough.

    Raises:
        UnreadableVideo: If the file is missing, contains no video, or takes longer than ``time_limit`` seconds.
    """
    if is_image(path):
        return _image_size(path)
    with opened(path, time_limit) as video:
        return upright_size(next(nearest(video, [0.0])))


def read_clip(
    path: Path | str, clip: Clip, start_seconds: float = 0.0, framing: Framing = CENTRE, *, time_limit: float = math.inf
) -> Tensor:
    """Return the frames nearest to the times ``start_seconds + k / clip.fps``, resized and cropped to the clip's size.

    Frames repeat if the file has a lower frame rate than the clip. A time beyond the end of the file is an error; nothing is padded.

    Args:
        path: A video, or an image if ``clip.frames`` is 1.
        clip: Number, rate and size of the frames.
        start_seconds: Time of the first frame.
        framing: Crop of the frames.
        time_limit: Seconds that decoding a video may take, checked between packets.

    Returns:
        ``(3, T, H, W)`` uint8, RGB.

    Raises:
        UnreadableVideo: If the file is missing or damaged, ends before the last of these times, or exceeds the time limit.
        ValueError: If ``start_seconds`` is negative.
    """
    if start_seconds < 0:
        raise ValueError(f"start_seconds must not be negative, got {start_seconds}")
    pixels = torch.empty(3, clip.frames, clip.height, clip.width, dtype=torch.uint8)
    if is_image(path):
        if clip.frames > 1 or start_seconds > 0:
            raise UnreadableVideo(f"{path}: an image has one frame, at 0 s; asked for {clip.frames} from {start_seconds:g} s")
        pixels[:, 0] = framing(_read_image(path), clip.height, clip.width)
        return pixels
    times = [start_seconds + number / clip.fps for number in range(clip.frames)]
    # NumPy, because torch takes three times as long to write interleaved pixels into colour planes.
    array = pixels.numpy()
    with opened(path, time_limit) as video:
        for number, frame in enumerate(nearest(video, times)):
            _write_frame(frame, framing, array[:, number])
    return pixels


def _write_frame(frame: VideoFrame, framing: Framing, target: np.ndarray) -> None:
    """Write the cropped frame into ``target``, ``(3, H, W)`` uint8."""
    _, height, width = target.shape
    if (frame.height, frame.width) != (height, width) or not write_planes(frame, target):
        target[:] = framing(pixels_of(frame), height, width).numpy()
    elif framing.mirrored:
        target[:] = target[..., ::-1].copy()


@contextmanager
def opened_image(path: Path | str) -> Iterator[Image.Image]:
    """Open an image file; errors inside the block become ``UnreadableVideo``."""
    if reason := why_unreadable(path):
        raise UnreadableVideo(f"{path}: {reason}")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableVideo(f"{path}: {error}") from error


def _read_image(path: Path | str) -> Tensor:
    """``(3, h, w)`` uint8 of an image file, upright."""
    with opened_image(path) as image:
        return upright_pixels(image)


def upright_pixels(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Tensor:
    """``(3, h, w)`` uint8 of the current frame of an image, upright, with transparent parts on the background."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    pixels = np.array(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    return flattened(torch.from_numpy(pixels), background)


def _image_size(path: Path | str) -> tuple[int, int]:
    """Return height and width of an upright image, from its header."""
    with opened_image(path) as image:
        return (image.width, image.height) if image.getexif().get(ORIENTATION, 1) in TRANSPOSED else (image.height, image.width)
