"""Pixels of decoded frames. Rotation marks of cameras are obeyed; transparent parts turn white, as on a page; pixels count as square.

Of an interlaced frame, whose odd and even rows are of different times, the even rows are shown twice.
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

# The places of red, green and blue among the planes of libav's "gbrp".
RED_GREEN_BLUE = (2, 0, 1)


class _Colours(threading.local):
    """What converts colours: one for all frames of a thread, as it prepares itself for a kind of frame, which takes longer than a frame."""

    def __init__(self) -> None:
        self.reformatter = VideoReformatter()


_colours = _Colours()


def pixels_of(frame: VideoFrame, background: tuple[int, int, int] = WHITE) -> Tensor:
    """``(3, h, w)`` uint8, upright."""
    kind = "rgba" if _transparent(frame.format.name) else "rgb24"
    pixels = torch.from_numpy(_colours.reformatter.reformat(frame, format=kind, threads=1).to_ndarray())
    if frame.interlaced_frame:
        pixels = pixels[::2].repeat_interleave(2, dim=0)[: len(pixels)]
    if quarters := _quarters(frame):
        pixels = torch.rot90(pixels, quarters)
    return flattened(pixels, background)


def put_planes(frame: VideoFrame, place: np.ndarray) -> bool:
    """Puts the same pixels into ``(3, h, w)`` uint8, which is faster, of frames of the commonest kind; says whether it was one.

    Of other sizes and kinds libav makes other colours along this way.
    """
    # Of other widths libav leaves the last columns out.
    common = frame.format.name == "yuv420p" and frame.width % 16 == 0 and frame.height % 2 == 0
    if not common or frame.interlaced_frame or _quarters(frame):
        return False
    planes = _colours.reformatter.reformat(frame, format="gbrp", threads=1).planes
    for colour, number in zip(place, RED_GREEN_BLUE, strict=True):
        plane = memoryview(planes[number])  # type: ignore[arg-type]
        if len(plane) == colour.size:
            # For small frames NumPy's preparations take longer than the copy.
            memoryview(colour).cast("B")[:] = plane
        else:
            colour[:] = np.frombuffer(plane, np.uint8).reshape(frame.height, -1)[:, : frame.width]
    return True


def flattened(pixels: Tensor, background: tuple[int, int, int] = WHITE) -> Tensor:
    """``(h, w, 3 or 4)`` uint8 to ``(3, h, w)`` uint8: what is transparent shows the background."""
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].float() / 255
        pixels = (pixels[..., :3] * alpha + torch.tensor(background) * (1 - alpha)).round().to(torch.uint8)
    return pixels.permute(2, 0, 1)


def _quarters(frame: VideoFrame) -> int:
    """Quarter turns to the left that make a frame upright."""
    return round(frame.rotation / 90)


@lru_cache
def _transparent(kind: str) -> bool:
    """Whether frames of a format can show what is behind them; a palette may hold transparent colours."""
    made = VideoFormat(kind)
    return made.has_palette or any(component.is_alpha for component in made.components)
