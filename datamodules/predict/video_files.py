"""Whole video files in chunks, of any length, at their own size and frame rate."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import av
import torch
from lightning import LightningDataModule
from torch import Tensor

from datamodules.decoding.frames import DecodeError, UnreadableVideo, at_rate, opened
from datamodules.decoding.pixels import pixels_of
from datamodules.decoding.reader import VIDEOS
from datamodules.loaders.distributed import rank_and_world_size
from modules.batch import FileChunk

logger = logging.getLogger(__name__)


# Seconds by which the duration in the header may exceed the frames: audio often lasts a little longer.
TOLERANCE = 1.0


class Source(NamedTuple):
    """A video file, the stem of its output files, and its mean frame rate."""

    file: str
    name: str
    fps: float


class VideoFiles(LightningDataModule):
    """Video files for ``predict``, each as consecutive chunks of frames.

    Files are streamed one after the other. Frames come at the mean rate of the file; where its own are irregular, the nearest is taken.
    Files are distributed over the processes. A file that is damaged after its beginning ends there, with a warning.

    Args:
        files: Paths of videos, and of folders, which stand for the videos directly inside them, by name. An image is a video of one frame.
        chunk_frames: Frames per chunk; the last chunk of a file may have fewer.

    Raises:
        ValueError: If there are no ``files`` or ``chunk_frames`` is below 1.
    """

    def __init__(self, files: list[str], chunk_frames: int = 16) -> None:
        super().__init__()
        if not files:
            raise ValueError("files must name at least one video or folder")
        if chunk_frames < 1:
            raise ValueError(f"chunk_frames must be at least 1, got {chunk_frames}")
        self.files, self.chunk_frames = files, chunk_frames

    def setup(self, stage: str) -> None:
        """Decode the first frame of every file.

        Raises:
            UnreadableVideo: If a file is missing or gives no frame.
            ValueError: If a folder holds no video, or ``stage`` is not "predict".
        """
        if stage != "predict":
            raise ValueError("VideoFiles supports only predict; fit, validate and test need clips, such as those of VideoFolder")
        paths = list(dict.fromkeys(path for file in self.files for path in videos_of(file)))
        self._sources = list(map(open_source, paths, unique_names(paths)))

    def predict_dataloader(self) -> _ChunkLoader:
        """Return the chunks of all files; rank ``r`` of ``n`` reads the files ``r, r + n, ...``."""
        return _ChunkLoader(self._sources, self.chunk_frames)


class _ChunkLoader:
    """Chunks of the files of this process.

    It has no length: Lightning would stop there, and the number of frames in a header can be too small.
    """

    def __init__(self, sources: list[Source], chunk_frames: int) -> None:
        self._sources, self._chunk_frames = sources, chunk_frames

    def __iter__(self) -> Iterator[FileChunk]:
        rank, world = rank_and_world_size()
        for source in self._sources[rank::world]:
            yield from file_chunks(source, self._chunk_frames)


def videos_of(file: str) -> list[str]:
    """Return a path, or the videos in a folder.

    Raises:
        ValueError: If the folder has none.
    """
    path = os.path.expanduser(file)
    if not os.path.isdir(path):
        return [path]
    found = sorted(str(child) for child in Path(path).iterdir() if child.suffix.lower() in VIDEOS and child.is_file())
    if not found:
        raise ValueError(f"there is no video in the folder {file}; videos end in {', '.join(sorted(VIDEOS))}")
    return found


def unique_names(paths: list[str]) -> list[str]:
    """Return the stem of every path, numbered if an earlier one has it; case is ignored, as some file systems do."""
    names: dict[str, str] = {}
    for path in paths:
        name, number = Path(path).stem, 1
        while name.lower() in names:
            number += 1
            name = f"{Path(path).stem}_{number}"
        names[name.lower()] = name
    return list(names.values())


def open_source(file: str, name: str) -> Source:
    """Open a file and decode its first frame.

    Raises:
        UnreadableVideo: If that fails.
    """
    with opened(file) as video:
        stream = video.stream
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise DecodeError("its frame rate is unknown")
        pixels_of(next(at_rate(video, float(rate))))
        return Source(file, name, float(rate))


def file_chunks(source: Source, chunk_frames: int) -> Iterator[FileChunk]:
    """Yield all frames of a file, ``chunk_frames`` at a time; one frame is read ahead to detect the last chunk."""
    frames, first = _until_damage(source), True
    ahead = next(frames, None)
    while ahead is not None:
        video, count = torch.empty(1, 3, chunk_frames, *ahead.shape[1:], dtype=torch.uint8), 0
        while ahead is not None and count < chunk_frames:
            video[0, :, count] = ahead
            ahead, count = next(frames, None), count + 1
        yield FileChunk(video=video[:, :, :count], **source._asdict(), first=first, last=ahead is None)
        first = False


def _until_damage(source: Source) -> Iterator[Tensor]:
    """Yield the frames of a file up to the first unreadable one, which is logged."""
    count = 0
    try:
        for pixels in _frames(source):
            yield pixels
            count += 1
    except UnreadableVideo as error:
        logger.warning("%s; only the frames before %.3f s are used", error, count / source.fps)


def _frames(source: Source) -> Iterator[Tensor]:
    """Yield every frame of a file as ``(3, h, w)`` uint8.

    Raises:
        UnreadableVideo: If the file is damaged, its frames change size, or they end long before the duration in its header.
    """
    with opened(source.file) as video:
        container, stream, _ = video
        size, end = None, 0.0
        for number, frame in enumerate(at_rate(video, source.fps)):
            pixels = pixels_of(frame)
            found, end = f"{pixels.shape[2]} x {pixels.shape[1]}", (number + 1) / source.fps
            if size not in (None, found):
                raise DecodeError(f"its frames change from {size} to {found} pixels")
            size = found
            yield pixels
        lengths = [(stream.duration or 0) * float(stream.time_base or 0), (container.duration or 0) / av.time_base]
        promised = min(filter(None, lengths), default=0.0)
        if promised > end + TOLERANCE:
            raise DecodeError(f"its frames end at {end:.3f} s, although its header promises {promised:.3f} s")
