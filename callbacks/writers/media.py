"""Videos as images: animations and contact sheets.

Every video is ``(3, T, H, W)`` uint8, 0..255, RGB, on any device.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import ceil
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from modules.storage.atomic_files import atomic_write

# Contact sheets, in pixels: range of a frame's shorter and longer side, height of a text line, gaps.
MIN_SIDE, MAX_SIDE = 80, 320
LINE = 16
MARGIN, GAP, WIDE_GAP = 10, 2, 14
FONT = ImageFont.load_default(13)
CAPTION_CHARACTERS = 24

# Formats of animations, and the unit of their frame durations in milliseconds.
TICKS = {".webp": 1, ".gif": 10}


def write_preview(path: str | Path, video: Tensor, fps: float, magnify: int = 1) -> None:
    """Write a looping animation: ``.webp``, lossless, or ``.gif``, 256 colours per frame.

    Args:
        path: File to write or to replace; missing folders are made. The suffix selects the format.
        video: ``(3, T, H, W)`` uint8.
        fps: Frames per second.
        magnify: Side in pixels of the square that every pixel becomes.

    Raises:
        TypeError: If ``video`` is not uint8.
        ValueError: If ``video`` is not ``(3, T, H, W)``, ``fps`` or ``magnify`` is not positive, or the suffix is unknown.
    """
    if magnify < 1:
        raise ValueError(f"magnify must be at least 1, got {magnify}")
    kind = Path(path).suffix.lower()
    if kind not in TICKS:
        raise ValueError(f"an animation ends in {' or '.join(TICKS)}, got {path}")
    if fps <= 0:
        raise ValueError(f"fps must be positive, got {fps}")
    frames = [Image.fromarray(frame.repeat(magnify, axis=0).repeat(magnify, axis=1)) for frame in frames_of(video)]
    # Rounding every duration would make 30 fps run 1 % fast; rounded times do not drift.
    times = [TICKS[kind] * round(1000 * frame / fps / TICKS[kind]) for frame in range(len(frames) + 1)]
    durations = [after - before for before, after in pairwise(times)]
    settings = {"save_all": True, "append_images": frames[1:], "duration": durations, "loop": 0}
    with atomic_write(path) as temporary:
        frames[0].save(temporary, kind[1:].upper(), **settings, **({"lossless": True} if kind == ".webp" else {}))


def write_png(path: str | Path, image: Image.Image) -> None:
    """Write a PNG file."""
    with atomic_write(path) as temporary:
        image.save(temporary, "PNG")


def contact_sheet(videos: Sequence[Tensor], captions: Sequence[str], columns: int = 9, group: int = 1, step: int = 1) -> Image.Image:
    """Return an image of many clips: a row per clip with its caption and evenly spaced frames from the first to the last.

    Small frames are magnified and very large ones reduced. Frame numbers are shown if all clips have the same length.

    Args:
        videos: Clips ``(3, T, H, W)`` uint8; lengths and sizes may differ.
        captions: A text per clip; wrapped, and cut at the height of the row.
        columns: Maximum number of frames per clip.
        group: Number of rows between wider gaps.
        step: Factor of the frame numbers, for clips that have every ``step``-th frame of a video.

    Raises:
        TypeError: If a video is not uint8.
        ValueError: If there is no clip, the numbers of clips and captions differ, or ``columns`` or ``group`` is not positive.
    """
    if not videos or len(videos) != len(captions):
        raise ValueError(f"a contact sheet needs a caption per clip, got {len(videos)} clips and {len(captions)} captions")
    if columns < 1 or group < 1:
        raise ValueError(f"columns and group must be at least 1, got {columns} and {group}")
    strips = [_strip(video, columns) for video in videos]
    texts = [_wrapped(caption, strip[0].height) for caption, strip in zip(captions, strips, strict=True)]
    gaps = [WIDE_GAP if group > 1 and row % group == 0 else GAP for row in range(1, len(strips))]
    numbered = len({tuple(strip) for strip in strips}) == 1
    tops = list(accumulate((strip[0].height + gap for strip, gap in zip(strips, gaps, strict=False)), initial=MARGIN + numbered * LINE))
    left = 2 * MARGIN + max(ceil(FONT.getlength(line)) for text in texts for line in text.split("\n"))
    width = GAP + max(frame.width for strip in strips for frame in strip.values())
    size = (left + width * max(map(len, strips)) + MARGIN, tops[-1] + strips[-1][0].height + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for top, text, strip in zip(tops, texts, strips, strict=True):
        draw.multiline_text((MARGIN, top + strip[0].height / 2), text, "#222222", FONT, anchor="lm", spacing=2)
        for column, frame in enumerate(strip.values()):
            sheet.paste(frame, (left + column * width, top))
    for column, number in enumerate(strips[0] if numbered else ()):
        draw.text((left + (column + 0.5) * width, tops[0] - 3), str(number * step), "#888888", FONT, anchor="mb")
    return sheet


def frames_of(video: Tensor) -> np.ndarray:
    """Return ``(3, T, H, W)`` uint8 as an array ``(T, H, W, 3)``.

    Raises:
        TypeError: If ``video`` is not uint8.
        ValueError: If ``video`` is not ``(3, T, H, W)`` with at least one frame.
    """
    if video.dtype != torch.uint8:
        raise TypeError(f"expected uint8 pixels in 0..255, got {video.dtype}")
    if video.ndim != 4 or video.shape[0] != 3 or 0 in video.shape:
        raise ValueError(f"expected a video of shape (3, T, H, W), got {tuple(video.shape)}")
    return rearrange(video, "c t h w -> t h w c").cpu().numpy()


def _strip(video: Tensor, columns: int) -> dict[int, Image.Image]:
    """Evenly spaced frames by their number, resized for the sheet."""
    frames = frames_of(video)
    height, width = frames.shape[1:3]
    numbers = np.linspace(0, len(frames) - 1, min(columns, len(frames))).round().astype(int).tolist()
    factor = max(1, ceil(MIN_SIDE / min(height, width))) * min(1.0, MAX_SIDE / max(height, width))
    size = (round(width * factor), round(height * factor))
    resample = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.LANCZOS
    return {number: Image.fromarray(frames[number]).resize(size, resample) for number in numbers}


def _wrapped(text: str, height: int) -> str:
    """The text in lines that fit into the caption column, cut at the height of a frame."""
    lines = [line for paragraph in text.split("\n") for line in textwrap.wrap(paragraph, CAPTION_CHARACTERS) or [""]]
    count = max(1, height // LINE)
    return "\n".join(lines if len(lines) <= count else [*lines[: count - 1], f"{lines[count - 1]} ..."])
