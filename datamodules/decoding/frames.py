"""Decoded frames by time: from the nearest keyframe before the first time on, one at a time.

Time counts from the first frame that a file shows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import av
import av.logging
from av import VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.format import formats_available
from av.video.stream import VideoStream

from datamodules.decoding.file_kind import why_unreadable

# Seconds below which two times are the same; no container is finer where it matters.
SAME_TIME = 1e-4

# Largest pictures, 8192 x 8192: headers can claim sizes that no memory holds.
MAX_PIXELS = 2**26

# Of lists of other files one may name itself, and all of them may name what is none of our business.
FORMATS = ",".join(sorted(formats_available - {"concat", "dash", "hls", "imf", "sdp"}))

OPTIONS = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "max_pixels": str(MAX_PIXELS)}

# libav writes about damaged files to stderr; what it finds reaches the caller as an exception.
av.logging.set_level(av.logging.PANIC)


class UnreadableVideo(ValueError):
    """A file does not give the frames that were asked for; the message names the file and the reason."""


class DecodeError(Exception):
    """A reason without the file's name; ``opened`` adds it."""


@contextmanager
def opened(path: Path | str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and its main video stream; trouble inside becomes an ``UnreadableVideo``."""
    if reason := why_unreadable(path):
        raise UnreadableVideo(f"{path}: {reason}")
    try:
        # "file:" keeps a colon in a name from being read as a protocol. What is written about a file may be in any encoding.
        with av.open(f"file:{path}", options=OPTIONS, metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream):
                raise DecodeError("there is no video stream in it")
            if not stream.codec_context:
                raise DecodeError("there is no decoder for its video stream")
            if stream.width * stream.height > MAX_PIXELS:
                raise DecodeError(f"its pictures have {stream.width} x {stream.height} pixels, more than {MAX_PIXELS:,}")
            # The workers of a loader already keep the cores busy, and small frames are slower in threads.
            stream.thread_type = "NONE"
            stream.codec_context.options = {"max_pixels": OPTIONS["max_pixels"]}
            yield container, stream
    except (FFmpegError, DecodeError) as error:
        raise UnreadableVideo(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def nearest(container: InputContainer, stream: VideoStream, times: list[float]) -> Iterator[VideoFrame]:
    """The frame nearest to each of the rising ``times``; of two equally near ones the earlier."""
    end = yield from _nearest(_frames_from(container, stream, times[0]), times)
    if end is not None:
        raise DecodeError(f"its frames end at {end:.3f} s; asked for {times[0]:.3f} s to {times[-1]:.3f} s")


def at_rate(container: InputContainer, stream: VideoStream, fps: float) -> Iterator[VideoFrame]:
    """The frames nearest to the times ``k / fps``, from the first frame until the stream ends."""
    yield from _nearest(_frames_from(container, stream, 0.0), (number / fps for number in count()))


def every(container: InputContainer, stream: VideoStream) -> Iterator[Shown]:
    """All frames of a file; trouble where one is damaged or some are lost."""
    end = 0.0
    for shown in _frames_from(container, stream, 0.0):
        if shown.doubtful and end + SAME_TIME < shown.time:
            raise DecodeError(f"its frames from {end:.3f} s to {shown.time:.3f} s are lost")
        if shown.spoiled:
            raise DecodeError(f"the frame at {shown.time:.3f} s is damaged")
        end = shown.end
        yield shown


def _nearest(frames: Iterator[Shown], times: Iterable[float]) -> Generator[VideoFrame, None, float | None]:
    """The frame nearest to each of the rising ``times``; returns when the frames end, if that is before one of the times."""
    earlier, later = next(frames), next(frames, None)
    for time in times:
        while later is not None and later.time < time + SAME_TIME:
            earlier, later = later, next(frames, None)
        if later is None and time > earlier.time + SAME_TIME and time > earlier.end - SAME_TIME:
            return earlier.end
        if later is not None and later.doubtful and earlier.end + SAME_TIME < time < later.time - SAME_TIME:
            raise DecodeError(f"its frames from {earlier.end:.3f} s to {later.time:.3f} s are lost")
        chosen = later if later is not None and later.time - time + SAME_TIME < time - earlier.time else earlier
        if chosen.spoiled:
            raise DecodeError(f"the frame at {chosen.time:.3f} s is damaged")
        yield chosen.frame
    return None


class Shown(NamedTuple):
    """A decoded frame.

    ``time`` and ``end`` are the seconds from and to which it is on the screen. ``spoiled`` says that it or a frame that it is made from
    is damaged; ``doubtful`` that libav complained of something before it, which it does of whole files too: proof only with a gap.
    """

    time: float
    end: float
    frame: VideoFrame
    spoiled: bool
    doubtful: bool


def _frames_from(container: InputContainer, stream: VideoStream, start: float) -> Iterator[Shown]:
    """All frames from one at or before ``start`` on."""
    frames = _decode(container, stream)
    first = next(frames, None)
    if first is None:
        raise DecodeError("the video stream holds no frames")
    origin = first.time
    # Some formats seek to the keyframe after the time, so they are asked again, for earlier ones.
    for margin in (0.0, 1.0, start) if start > 0 else ():
        container.seek(int((origin + max(start - margin, 0.0)) / (stream.time_base or 1)), stream=stream)
        frames = _decode(container, stream)
        first = next(frames, None)
        if first is not None and first.time <= origin + start:
            break
    if first is None:
        raise DecodeError(f"no frame can be decoded at {start:.3f} s or before")
    for shown in chain([first], frames):
        yield Shown(shown.time - origin, shown.end - origin, *shown[2:])


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[Shown]:
    rate = stream.average_rate or stream.guessed_rate
    usual, tick = 1 / float(rate) if rate else 0.0, 0.0
    complaints, spoiled, doubtful = _complaints(), False, False
    for packet in container.demux(stream):
        doubtful |= packet.is_corrupt
        for frame in packet.decode():
            # The same for all frames of a stream; to make a fraction of it takes as long as to convert a small frame's colours.
            tick = tick or float(frame.time_base or 0)
            if frame.time is None or not tick:
                raise DecodeError("its frames carry no times")
            spoiled = frame.is_corrupt or (spoiled and not frame.key_frame)
            doubtful |= _complaints() > complaints
            yield Shown(frame.time, frame.time + (frame.duration * tick or usual), frame, spoiled, doubtful)


def _complaints() -> int:
    """How often libav has complained in this process, whatever is done with what it says."""
    return av.logging.get_last_error()[0]
