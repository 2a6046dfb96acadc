"""What a file holds, and the pixels of a clip from it. A picture file is a clip of one frame."""

from __future__ import annotations

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
from datamodules.decoding.pixels import WHITE, flattened, pixels_of, put_planes
from datamodules.decoding.subprocess_guard import empty
from datamodules.decoding.transforms import CENTRE, Framing
from modules.geometry import Clip

__all__ = ["PICTURES", "Probe", "UnreadableVideo", "is_picture", "probe", "read_clip", "shown_size"]

# The Exif tag that says how to turn a picture, and its values with rows and columns exchanged.
ORIENTATION, TURNED = 0x0112, {5, 6, 7, 8}

# What is taken for a video in a folder.
VIDEOS = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"}
)

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"})

# What a picture may really be, whatever its suffix; some other formats of Pillow's start programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")


@dataclass(frozen=True)
class Probe:
    """What a file says about itself, without decoding it.

    Args:
        frames: Number of frames.
        seconds: Duration; 0 for pictures.
        fps: Mean frame rate; 0 for pictures.
        height: Rows as stored, before a rotation mark is obeyed.
        width: Columns as stored.
    """

    frames: int
    seconds: float
    fps: float
    height: int
    width: int


def is_picture(path: Path | str) -> bool:
    """Whether a file is read as a picture, by its suffix. Of an animated picture only the first frame is seen."""
    return os.path.splitext(path)[1].lower() in PICTURES


def probe(path: Path | str) -> Probe:
    """Length, rate and size by the file's header, or by its list of packets if the header does not know.

    Raises:
        UnreadableVideo: If there is no such file, or no video in it.
    """
    if is_picture(path):
        height, width = _picture(path).shape[-2:]
        return Probe(frames=1, seconds=0.0, fps=0.0, height=height, width=width)
    with opened(path) as (container, stream):
        tick = float(stream.time_base or 0)
        seconds, frames = (stream.duration or 0) * tick, stream.frames
        if seconds <= 0:
            # Packets come in decoding order, so the last one need not be the latest.
            shown = [(packet.pts, packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None]
            if not shown:
                raise DecodeError("the video stream holds no frames")
            end = max(start + length for start, length in shown)
            seconds, frames = (end - min(shown)[0]) * tick, len(shown)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        return Probe(frames or round(seconds * fps), seconds, fps, stream.height, stream.width)


def shown_size(path: Path | str) -> tuple[int, int]:
    """Rows and columns of a file's first frame when it is upright, which takes its decoding; of a picture, the header is enough.

    Raises:
        UnreadableVideo: If there is no such file, or no video in it.
    """
    if is_picture(path):
        return _picture_size(path)
    with opened(path) as (container, stream):
        frame = next(nearest(container, stream, [0.0]))
        turned = round(frame.rotation / 90) % 2
        return (frame.width, frame.height) if turned else (frame.height, frame.width)


def read_clip(path: Path | str, clip: Clip, start_seconds: float = 0.0, framing: Framing = CENTRE) -> Tensor:
    """The frames nearest to the times ``start_seconds + k / clip.fps``, resized and cut to the clip's size.

    A file with fewer frames per second than the clip shows frames twice; time that the file does not have is an error, never filled.

    Args:
        path: A video, or a picture if ``clip.frames`` is 1.
        clip: Number, rate and size of the frames.
        start_seconds: Time of the first frame.
        framing: Which part of the picture to show.

    Returns:
        ``(3, T, H, W)`` uint8, RGB.

    Raises:
        UnreadableVideo: If the file is missing or damaged, or ends before the last of these times.
        ValueError: If ``start_seconds`` is negative.
    """
    if start_seconds < 0:
        raise ValueError(f"start_seconds must not be negative, got {start_seconds}")
    video = empty(3, clip.frames, clip.height, clip.width)
    if is_picture(path):
        if clip.frames > 1 or start_seconds > 0:
            raise UnreadableVideo(f"{path}: a picture has one frame, at 0 s; asked for {clip.frames} from {start_seconds:g} s")
        video[:, 0] = framing(_picture(path), clip.height, clip.width)
        return video
    times = [start_seconds + number / clip.fps for number in range(clip.frames)]
    # In NumPy, as torch takes three times as long to put rows of pixels into planes of colours.
    places = video.numpy()
    with opened(path) as (container, stream):
        for number, frame in enumerate(nearest(container, stream, times)):
            _show(frame, framing, places[:, number])
    return video


def _show(frame: VideoFrame, framing: Framing, place: np.ndarray) -> None:
    """Puts a frame into a place ``(3, H, W)``."""
    _, height, width = place.shape
    if (frame.height, frame.width) != (height, width) or not put_planes(frame, place):
        place[:] = framing(pixels_of(frame), height, width).numpy()
    elif framing.mirrored:
        place[:] = place[..., ::-1].copy()


@contextmanager
def opened_picture(path: Path | str) -> Iterator[Image.Image]:
    """A picture file; trouble inside becomes an ``UnreadableVideo``."""
    if reason := why_unreadable(path):
        raise UnreadableVideo(f"{path}: {reason}")
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
            yield image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableVideo(f"{path}: {error}") from error


def _picture(path: Path | str) -> Tensor:
    """``(3, h, w)`` uint8 of a picture file, upright."""
    with opened_picture(path) as image:
        return upright_pixels(image)


def upright_pixels(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Tensor:
    """``(3, h, w)`` uint8 of what a picture shows now; what is transparent shows the background."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16"):
        # Pillow would cut 16 bits off at 255 where it should scale them.
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    pixels = np.array(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    return flattened(torch.from_numpy(pixels), background)


def _picture_size(path: Path | str) -> tuple[int, int]:
    """Rows and columns of a picture when it is upright, by its header."""
    with opened_picture(path) as image:
        return (image.width, image.height) if image.getexif().get(ORIENTATION, 1) in TURNED else (image.height, image.width)
