"""Files that nobody wants to read: more than two hundred, made in seconds, each with what has to become of it."""

from __future__ import annotations

import os
import random
import socket
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

# What has to become of a file: its clip is served, another one stands in for it, or either (bits that nobody can know to be wrong).
GOOD, BROKEN, EITHER = "good", "broken", "either"

CODECS = {
    "mp4": "libx264",
    "mov": "mpeg4",
    "mkv": "libx264",
    "avi": "mpeg4",
    "ts": "mpeg2video",
    "webm": "libvpx",
    "mpg": "mpeg1video",
    "flv": "flv",
}
ROWS, COLUMNS, FRAMES = 48, 64, 20


def write_video(
    path: Path,
    codec: str = "libx264",
    frames: int = FRAMES,
    size: tuple[int, int] = (ROWS, COLUMNS),
    pixels: str = "yuv420p",
    times: list[float] | None = None,
) -> Path:
    """A grey ramp that moves, 25 frames per second or at ``times`` in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.gop_size = 8
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        ramp = np.linspace(20, 200, size[1], dtype=np.uint8)
        for number in range(frames):
            picture = np.broadcast_to(np.roll(ramp, 2 * number)[None, :, None], (*size, 3))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times:
                frame.pts, frame.time_base = round(1000 * times[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turn_clockwise(path: Path) -> None:
    """Marks a video as turned by 90 degrees, as phones do."""
    content = bytearray(path.read_bytes())
    # The matrix of the track's header.
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, ROWS << 16, 0, 1 << 30)
    path.write_bytes(content)


def write_sound(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())


def hostile_files(folder: Path) -> dict[str, str]:
    """Fills a folder; the names in it and what has to become of them."""
    folder.mkdir()
    fates: dict[str, str] = {}
    for make in (_whole, _truncated, _flipped, _empty, _disguised, _strange, _boastful, _no_files):
        for name, fate in make(folder):
            fates[name] = fate
    return fates


def _whole(folder: Path) -> Iterator[tuple[str, str]]:
    """A whole file of every kind, from which others are made."""
    for suffix, codec in CODECS.items():
        yield write_video(folder / f"whole.{suffix}", codec).name, GOOD
    picture = np.random.default_rng(0).integers(0, 255, (ROWS, COLUMNS, 3), np.uint8)
    for suffix in ("png", "jpg", "webp", "bmp", "tif"):
        Image.fromarray(picture).save(folder / f"whole.{suffix}")
        yield f"whole.{suffix}", GOOD
    frames = [Image.fromarray(np.roll(picture, number, 1)) for number in range(FRAMES)]
    frames[0].save(folder / "whole.gif", save_all=True, append_images=frames[1:], duration=40)
    yield "whole.gif", GOOD


def _of(folder: Path) -> list[tuple[str, bytes]]:
    return [(path.suffix[1:], path.read_bytes()) for path in sorted(folder.glob("whole.*"))]


def _truncated(folder: Path) -> Iterator[tuple[str, str]]:
    for suffix, content in _of(folder):
        for tenth in range(1, 10):
            name = f"cut{tenth}.{suffix}"
            (folder / name).write_bytes(content[: len(content) * tenth // 10])
            # Their tables come last. Of other kinds what is left may well be long enough for a clip.
            yield name, BROKEN if suffix in ("mp4", "mov") else EITHER


def _flipped(folder: Path) -> Iterator[tuple[str, str]]:
    chance = random.Random(0)
    for suffix, content in _of(folder):
        for number in range(5):
            damaged = bytearray(content)
            for _ in range(2 ** (2 * number)):
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
            (folder / f"flipped{number}.{suffix}").write_bytes(damaged)
            yield f"flipped{number}.{suffix}", EITHER


def _empty(folder: Path) -> Iterator[tuple[str, str]]:
    for suffix in (*CODECS, "png", "jpg", "webp", "gif"):
        (folder / f"empty.{suffix}").touch()
        yield f"empty.{suffix}", BROKEN
        (folder / f"zeros.{suffix}").write_bytes(bytes(5000))
        yield f"zeros.{suffix}", BROKEN if suffix not in ("mpg", "ts") else EITHER
    # A terabyte that takes no room: whoever reads all of it never returns.
    with open(folder / "terabyte.mkv", "wb") as file:
        file.truncate(2**40)
    yield "terabyte.mkv", BROKEN


def _disguised(folder: Path) -> Iterator[tuple[str, str]]:
    """Something else than the suffix says."""
    for suffix, content in _of(folder):
        if suffix in CODECS:
            (folder / f"{suffix}_as.avi").write_bytes(content)
            yield f"{suffix}_as.avi", GOOD
            (folder / f"{suffix}_as.png").write_bytes(content)
            yield f"{suffix}_as.png", BROKEN
    (folder / "jpeg_as.png").write_bytes((folder / "whole.jpg").read_bytes())
    yield "jpeg_as.png", GOOD
    texts = {
        "text": "This is a text.\n" * 50,
        "page": "<!DOCTYPE html><html><body>404</body></html>",
        "script": "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
        "playlist": "#EXTM3U\n#EXTINF:1,\nplaylist.mp4\n",
        "list": "ffconcat version 1.0\nfile 'list.mp4'\n",
        "elsewhere": "#EXTM3U\n#EXTINF:1,\nhttp://localhost:1/a.ts\n",
    }
    for name, text in texts.items():
        for suffix in ("mp4", "png"):
            (folder / f"{name}.{suffix}").write_text(text)
            yield f"{name}.{suffix}", BROKEN
    for number in range(10):
        name = f"noise{number}.{('mp4', 'webm', 'ts', 'mkv', 'jpg')[number % 5]}"
        (folder / name).write_bytes(random.Random(number).randbytes(20000))
        yield name, EITHER if name.endswith("ts") else BROKEN


def _strange(folder: Path) -> Iterator[tuple[str, str]]:
    """Allowed, if rare."""
    write_sound(folder / "sound.mp4")
    yield "sound.mp4", BROKEN
    matroska = (folder / "whole.mkv").read_bytes()
    (folder / "no_frames.mkv").write_bytes(matroska[: matroska.index(b"\x1f\x43\xb6\x75")])
    yield "no_frames.mkv", BROKEN
    yield write_video(folder / "one_frame.mp4", frames=1).name, GOOD
    yield write_video(folder / "one_pixel.mkv", "ffv1", size=(1, 1), pixels="yuv444p").name, GOOD
    yield write_video(folder / "one_row.mkv", "ffv1", size=(1, 300), pixels="yuv444p").name, GOOD
    yield write_video(folder / "ten_bits.mp4", pixels="yuv444p10le").name, GOOD
    yield write_video(folder / "grey.mkv", "ffv1", pixels="gray16le").name, GOOD
    yield write_video(folder / "alpha.mkv", "ffv1", pixels="bgra").name, GOOD
    times = [0.0, 0.01, 0.5, 0.51, 0.52, 1.7, 1.71, 3.0, 3.4, 3.41]
    yield write_video(folder / "variable.mkv", frames=len(times), times=times).name, GOOD
    yield write_video(folder / "variable.mp4", frames=len(times), times=times).name, GOOD
    turn_clockwise(write_video(folder / "turned.mp4"))
    yield "turned.mp4", GOOD
    whole = (folder / "whole.mp4").read_bytes()
    for name in ("with space", "with\nline", "100%d", "12:30", "-dash", "ünïcödé", "'\"", "x" * 200, "#[0]*?"):
        (folder / f"{name}.mp4").write_bytes(whole)
        yield f"{name}.mp4", GOOD
    (folder / "untouchable.mp4").write_bytes(whole)
    (folder / "untouchable.mp4").chmod(0)
    yield "untouchable.mp4", GOOD if os.access(folder / "untouchable.mp4", os.R_OK) else BROKEN


def _boastful(folder: Path) -> Iterator[tuple[str, str]]:
    """Headers that promise more than there can be."""
    whole = (folder / "whole.mp4").read_bytes()
    for box, offsets in {"stsz": (12,), "stts": (8, 12, 16), "stsc": (8, 12), "stco": (8, 12), "mdhd": (16, 20), "stsd": (8,)}.items():
        for offset in offsets:
            for number in (0x7FFFFFFF, 0xFFFFFFFF):
                name = f"{box}{offset}_{number:x}.mp4"
                (folder / name).write_bytes(_with_number(whole, whole.index(box.encode()) + offset - 4, number, 4))
                yield name, EITHER
    sizes = whole.index(b"avc1") + 28
    (folder / "giant.mp4").write_bytes(_with_number(whole, sizes, 0xFFFFFFFF, 4))
    yield "giant.mp4", EITHER
    picture = (folder / "whole.png").read_bytes()
    for name, side in (("giant", 0x7FFFFFFF), ("large", 60000), ("nothing", 0)):
        (folder / f"{name}.png").write_bytes(_with_number(_with_number(picture, 16, side, 4), 20, side, 4))
        yield f"{name}.png", BROKEN
    moving = (folder / "whole.gif").read_bytes()
    (folder / "giant.gif").write_bytes(_with_number(moving, 6, 0xFFFFFFFF, 4))
    yield "giant.gif", BROKEN
    (folder / "giant.y4m").write_bytes(b"YUV4MPEG2 W60000 H60000 F25:1 C420\nFRAME\n" + bytes(100))
    yield "giant.y4m", BROKEN
    (folder / "fast.y4m").write_bytes(b"YUV4MPEG2 W4 H4 F2147483647:1 C420\n" + (b"FRAME\n" + bytes(24)) * 9)
    yield "fast.y4m", EITHER


def _with_number(content: bytes, place: int, number: int, size: int) -> bytes:
    return content[:place] + number.to_bytes(size, "big") + content[place + size :]


def _no_files(folder: Path) -> Iterator[tuple[str, str]]:
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as plug:
        # A path this long may not fit into the address of a socket.
        here = os.getcwd()
        os.chdir(folder)
        plug.bind("socket.mp4")
        os.chdir(here)
    links = {"circle.mp4": "elcric.mp4", "elcric.mp4": "circle.mp4", "self.png": "self.png", "dangling.mp4": "gone.mp4"}
    links |= {"device.mp4": "/dev/zero", "null.png": "/dev/null", "pipe_behind_a_link.mkv": "pipe.mp4", "parent.mp4": "."}
    for name, target in links.items():
        (folder / name).symlink_to(target)
    for name in ("folder.mp4", "pipe.mp4", "socket.mp4", *links):
        yield name, BROKEN
    (folder / "link.mp4").symlink_to("whole.mp4")
    yield "link.mp4", GOOD
