"""H.264 video files, written incrementally."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from torch import Tensor

from callbacks.writers.media import frames_of
from modules.storage.atomic_files import atomic_write

# x264's constant rate factor: visually lossless, at a fraction of the size of a lossless file. VBench asks for 10.
QUALITY = "10"


class Mp4Writer:
    """Writes H.264 in yuv420p; a context manager.

    The complete file appears when the block ends without an error; after an error the previous file, if any, stays. The format stores one
    colour per 2 x 2 pixels, so frames of odd height or width repeat their last row or column.

    Args:
        path: File to write or to replace; missing folders are made.
        fps: Frames per second.

    Raises:
        ValueError: If ``fps`` is not positive, or, at the end of the block, if no frame was appended.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        if fps <= 0:
            raise ValueError(f"fps must be positive, got {fps}")
        self.path, self.fps = Path(path), fps
        self._size = ""

    def __enter__(self) -> Self:
        with ExitStack() as files:
            temporary = files.enter_context(atomic_write(self.path))
            container = av.open(str(temporary), "w", format="mp4", options={"movflags": "faststart"})
            self._container = files.enter_context(container)
            self._stream = container.add_stream("libx264", rate=Fraction(self.fps).limit_denominator(1001), options={"crf": QUALITY})
            files.push(self._finish)
            self._files = files.pop_all()
        return self

    def append(self, video: Tensor) -> None:
        """Write the frames of ``(3, T, H, W)`` uint8.

        Raises:
            TypeError: If ``video`` is not uint8.
            ValueError: If ``video`` is not ``(3, T, H, W)`` or differs in size from earlier frames.
        """
        frames = _even(frames_of(video))
        size = "{2} x {3}".format(*video.shape)
        if not self._size:
            self._stream.height, self._stream.width = frames.shape[1:3]
            self._stream.pix_fmt = "yuv420p"
        elif size != self._size:
            raise ValueError(f"{self.path}: frames of {self._size} pixels cannot be followed by frames of {size}")
        self._size = size
        for frame in frames:
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))

    def __exit__(self, *error: Any) -> None:
        self._files.__exit__(*error)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush the encoder."""
        if kind is None:
            if not self._size:
                raise ValueError(f"{self.path}: a video needs at least one frame")
            self._container.mux(self._stream.encode())


def write_mp4(path: str | Path, video: Tensor, fps: float) -> None:
    """Write a whole video with :class:`Mp4Writer`.

    Args:
        path: File to write or to replace; missing folders are made.
        video: ``(3, T, H, W)`` uint8.
        fps: Frames per second.

    Raises:
        TypeError: If ``video`` is not uint8.
        ValueError: If ``video`` is not ``(3, T, H, W)`` or ``fps`` is not positive.
    """
    with Mp4Writer(path, fps) as writer:
        writer.append(video)


def _even(frames: np.ndarray) -> np.ndarray:
    """Pad ``(T, H, W, 3)`` to even height and width by repeating the last row or column."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
