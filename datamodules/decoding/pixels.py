"""RGB pixels of decoded frames. Rotation metadata is applied, transparent parts turn white, and pixels are taken as square.

The rows of an interlaced frame belong to two times: its even rows are repeated, its odd rows dropped.
"""

from __future__ import annotations

import threading
from functools import lru_cache

import numpy as np
import torch
from av import VideoFormat, VideoFrame
from av.video.reformatter import VideoReformatter
from torch import Tensor

# Red, green and blue.
WHITE = (255, 255, 255)

# Plane numbers of red, green and blue in libav's "gbrp".
RGB_PLANES = (2, 0, 1)


class _Converter(threading.local):
    """Colour converter of a thread. Setting one up for a pixel format takes longer than converting a frame."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


_converter = _Converter()


def pixels_of(frame: VideoFrame, background: tuple[int, int, int] = WHITE) -> Tensor:
    """Return the pixels of a frame, ``(3, h, w)`` uint8, upright."""
    pixel_format = "rgba" if _transparent(frame.format.name) else "rgb24"
    pixels = torch.from_numpy(_converter.reformatter.reformat(frame, format=pixel_format, threads=1).to_ndarray())
    if frame.interlaced_frame:
        pixels = pixels[::2].repeat_interleave(2, dim=0)[: len(pixels)]
    if quarters := _quarter_turns(frame):
        pixels = torch.rot90(pixels, quarters)
    return flattened(pixels, background)


def write_planes(frame: VideoFrame, target: np.ndarray) -> bool:
    """Write the pixels of a frame into ``target``, ``(3, h, w)`` uint8, by a path that is faster than ``pixels_of``.

    Only upright progressive yuv420p frames of even height and a width that is a multiple of 16 are written, with the same values as
    ``pixels_of``. For other sizes and pixel formats this path yields different colours.

    Returns:
        Whether the frame was written.
    """
    # At other widths libav leaves out the last columns.
    supported = frame.format.name == "yuv420p" and frame.width % 16 == 0 and frame.height % 2 == 0
    if not supported or frame.interlaced_frame or _quarter_turns(frame):
        return False
    planes = _converter.reformatter.reformat(frame, format="gbrp", threads=1).planes
    for channel, number in zip(target, RGB_PLANES, strict=True):
        plane = memoryview(planes[number])  # type: ignore[arg-type]
        if len(plane) == channel.size:
            # For small frames NumPy's overhead exceeds the copy.
            memoryview(channel).cast("B")[:] = plane
        else:
            channel[:] = np.frombuffer(plane, np.uint8).reshape(frame.height, -1)[:, : frame.width]
    return True


def flattened(pixels: Tensor, background: tuple[int, int, int] = WHITE) -> Tensor:
    """Convert ``(h, w, 3 or 4)`` uint8 to ``(3, h, w)`` uint8, blending an alpha channel with the background."""
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].float() / 255
        pixels = (pixels[..., :3] * alpha + torch.tensor(background) * (1 - alpha)).round().to(torch.uint8)
    return pixels.permute(2, 0, 1)


def upright_size(frame: VideoFrame) -> tuple[int, int]:
    """Return height and width of a frame after its rotation."""
    return (frame.width, frame.height) if _quarter_turns(frame) % 2 else (frame.height, frame.width)


def _quarter_turns(frame: VideoFrame) -> int:
    """Return the number of counter-clockwise quarter turns that make a frame upright."""
    return round(frame.rotation / 90)


@lru_cache
def _transparent(pixel_format: str) -> bool:
    """Return whether frames of a pixel format can be transparent; the colours of a palette can."""
    format_ = VideoFormat(pixel_format)
    return format_.has_palette or any(component.is_alpha for component in format_.components)
