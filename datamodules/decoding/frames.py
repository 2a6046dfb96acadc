"""Decoded video frames by presentation time, one at a time, starting at the nearest earlier keyframe.

Time is in seconds and counts from the first frame of the file.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import av
import av.logging
from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.format import formats_available
from av.video.stream import VideoStream

from datamodules.decoding.file_kind import why_unreadable

# Seconds below which two times are equal. No common container is finer.
SAME_TIME = 1e-4

# Pixels of the largest accepted frame, 8192 x 8192: a header can claim sizes that no memory holds.
MAX_PIXELS = 2**26

# Exclude playlist formats: they can reference themselves or arbitrary local files.
FORMATS = ",".join(sorted(formats_available - {"concat", "dash", "hls", "imf", "sdp"}))

OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}

# libav reports damaged files on stderr. Callers get an exception instead.
av.logging.set_level(av.logging.PANIC)


class UnreadableVideo(ValueError):
    """A file does not yield the requested frames; the message names the file and the reason."""


class DecodeError(Exception):
    """A reason without the file name, which ``opened`` adds."""


class OpenVideo(NamedTuple):
    """An open file, its main video stream, and the ``time.monotonic()`` at which reading it must be over."""

    container: InputContainer
    stream: VideoStream
    deadline: float

    def packets(self) -> Iterator[Packet]:
        """Yield the packets of the video stream.

        Raises:
            DecodeError: If the deadline has passed. A single call into a decoder is not interrupted.
        """
        for packet in self.container.demux(self.stream):
            if time.monotonic() > self.deadline:
                raise DecodeError("reading it takes longer than the time limit")
            yield packet


@contextmanager
def opened(path: Path | str, time_limit: float = math.inf) -> Iterator[OpenVideo]:
    """Open a video file; errors inside the block become ``UnreadableVideo``.

    Args:
        path: The file.
        time_limit: Seconds until ``packets`` fails.

    Raises:
        UnreadableVideo: If the file cannot be read.
    """
    if reason := why_unreadable(path):
        raise UnreadableVideo(f"{path}: {reason}")
    deadline = time.monotonic() + time_limit
    try:
        # "file:" keeps a colon in a name from being read as a protocol. Metadata may be in any encoding.
        with av.open(f"file:{path}", options=OPTIONS, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise DecodeError("there is no video stream in it")
            if not stream.codec_context:
                raise DecodeError("there is no decoder for its video stream")
            if stream.width * stream.height > MAX_PIXELS:
                raise DecodeError(f"its frames have {stream.width} x {stream.height} pixels, more than {MAX_PIXELS:,}")
            # The workers of a loader already keep the cores busy, and small frames are slower in threads.
            stream.thread_type = "NONE"
            stream.codec_context.options = {"max_pixels": OPTIONS["max_pixels"]}
            yield OpenVideo(container, stream, deadline)
    except (FFmpegError, DecodeError) as error:
        raise UnreadableVideo(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def nearest(video: OpenVideo, times: list[float]) -> Iterator[VideoFrame]:
    """Yield the frame nearest to each of the increasing ``times``; of two equally near frames the earlier one."""
    end = yield from _nearest(_frames_from(video, times[0]), times)
    if end is not None:
        raise DecodeError(f"its frames end at {end:.3f} s; asked for {times[0]:.3f} s to {times[-1]:.3f} s")


def at_rate(video: OpenVideo, fps: float) -> Iterator[VideoFrame]:
    """Yield the frames nearest to the times ``k / fps`` until the stream ends."""
    yield from _nearest(_frames_from(video, 0.0), (number / fps for number in count()))


def every(video: OpenVideo) -> Iterator[DecodedFrame]:
    """Yield all frames of a file; raise ``DecodeError`` where one is damaged or frames are missing."""
    end = 0.0
    for decoded in _frames_from(video, 0.0):
        if decoded.suspect and end + SAME_TIME < decoded.time:
            raise DecodeError(f"its frames from {end:.3f} s to {decoded.time:.3f} s are lost")
        if decoded.damaged:
            raise DecodeError(f"the frame at {decoded.time:.3f} s is damaged")
        end = decoded.end
        yield decoded


def _nearest(frames: Iterator[DecodedFrame], times: Iterable[float]) -> Generator[VideoFrame, None, float | None]:
    """Yield the frame nearest to each of ``times``; return the end of the last frame if it is before one of them."""
    earlier, later = next(frames), next(frames, None)
    for wanted in times:
        while later is not None and later.time < wanted + SAME_TIME:
            earlier, later = later, next(frames, None)
        if later is None and wanted > earlier.time + SAME_TIME and wanted > earlier.end - SAME_TIME:
            return earlier.end
        if later is not None and later.suspect and earlier.end + SAME_TIME < wanted < later.time - SAME_TIME:
            raise DecodeError(f"its frames from {earlier.end:.3f} s to {later.time:.3f} s are lost")
        chosen = later if later is not None and later.time - wanted + SAME_TIME < wanted - earlier.time else earlier
        if chosen.damaged:
            raise DecodeError(f"the frame at {chosen.time:.3f} s is damaged")
        yield chosen.frame
    return None


class DecodedFrame(NamedTuple):
    """A decoded frame with its presentation interval.

    Attributes:
        time: Start of the presentation in seconds.
        end: End of the presentation in seconds.
        frame: The frame.
        damaged: Whether the frame, or one that it is predicted from, is corrupt.
        suspect: Whether libav has reported errors so far. It does so for intact files too, so this counts only together with a gap.
    """

    time: float
    end: float
    frame: VideoFrame
    damaged: bool
    suspect: bool


def _frames_from(video: OpenVideo, start: float) -> Iterator[DecodedFrame]:
    """Yield all frames from one at or before ``start``."""
    container, stream, _ = video
    frames = _decode(video)
    first = next(frames, None)
    if first is None:
        raise DecodeError("the video stream holds no frames")
    origin = first.time
    # Some formats seek to the keyframe after the requested time. Retry with earlier times.
    for margin in (0.0, 1.0, start) if start > 0 else ():
        container.seek(int((origin + max(start - margin, 0.0)) / (stream.time_base or 1)), stream=stream)
        frames = _decode(video)
        first = next(frames, None)
        if first is not None and first.time <= origin + start:
            break
    if first is None:
        raise DecodeError(f"no frame can be decoded at {start:.3f} s or before")
    for decoded in chain([first], frames):
        yield DecodedFrame(decoded.time - origin, decoded.end - origin, *decoded[2:])


def _decode(video: OpenVideo) -> Iterator[DecodedFrame]:
    rate = video.stream.average_rate or video.stream.guessed_rate
    usual, tick = 1 / float(rate) if rate else 0.0, 0.0
    errors, damaged, suspect = _logged_errors(), False, False
    for packet in video.packets():
        suspect |= packet.is_corrupt
        for frame in packet.decode():
            # Constant over a stream. Converting the fraction takes as long as converting the colours of a small frame.
            tick = tick or float(frame.time_base or 0)
            if frame.time is None or not tick:
                raise DecodeError("its frames carry no times")
            damaged = frame.is_corrupt or (damaged and not frame.key_frame)
            suspect |= _logged_errors() > errors
            yield DecodedFrame(frame.time, frame.time + (frame.duration * tick or usual), frame, damaged, suspect)


def _logged_errors() -> int:
    """Return the number of errors that libav has logged in this process, suppressed ones included."""
    return av.logging.get_last_error()[0]
