"""Reading of clips: frames by time, colours, orientation, and errors for what is missing."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

import datamodules.decoding.frames
from datamodules.decoding.reader import Probe, UnreadableVideo, probe, read_clip
from datamodules.decoding.transforms import Framing
from modules.geometry import Clip

H264 = "libx264" if "libx264" in av.codecs_available else "mpeg4"


def write_video(
    path: Path,
    levels: list[int],
    times: list[float] | None = None,
    *,
    codec: str = H264,
    size: tuple[int, int] = (48, 64),
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
) -> Path:
    """Grey frames of the given levels, 25 per second or at ``times``; the left half is 40 brighter."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.gop_size = 10
        stream.codec_context.time_base = Fraction(1, 1000) if times else Fraction(1, 25)
        for number, level in enumerate(levels):
            picture = np.full((*size, 3), level, np.uint8)
            picture[:, : size[1] // 2] += 40
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = round(times[number] * 1000) if times else number
            frame.time_base = stream.codec_context.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels_of(video: torch.Tensor) -> list[int]:
    """The grey level of every frame, read on the darker half."""
    return video[:, :, video.shape[2] // 2, -4].float().mean(0).round().int().tolist()


def assert_levels(video: torch.Tensor, expected: list[int], tolerance: int = 3) -> None:
    found = levels_of(video)
    assert len(found) == len(expected) and max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= tolerance, (found, expected)


LEVELS = [4 * number for number in range(50)]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "grey.mp4", LEVELS)


def test_every_frame_at_the_own_rate(video):
    clip = read_clip(video, Clip(50, 48, 64, 25.0))
    assert clip.shape == (3, 50, 48, 64) and clip.dtype == torch.uint8
    assert_levels(clip, LEVELS)


def test_nearest_frame_by_time(video):
    for fps in (25.0, 12.5, 8.0, 10.0):
        for start in (0.0, 0.04, 0.36, 0.4, 0.41, 1.0, 1.3):
            expected = [LEVELS[int(25 * (start + number / fps) + 0.4999)] for number in range(5)]
            assert_levels(read_clip(video, Clip(5, 48, 64, fps), start), expected)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.ts", "a.mov", "a.webm", "12:30 100%d.mp4"])
def test_containers_agree(tmp_path, name):
    codec = {".webm": "libvpx-vp9", ".avi": "mpeg4"}.get(Path(name).suffix, H264)
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec} here")
    path = write_video(tmp_path / name, LEVELS, codec=codec)
    assert_levels(read_clip(path, Clip(50, 48, 64, 25.0)), LEVELS, 4)
    assert_levels(read_clip(path, Clip(20, 48, 64, 25.0), 0.92), LEVELS[23:43], 4)


def test_variable_frame_rate(tmp_path):
    times = [0.0, 0.1, 0.2, 1.0, 1.1, 1.2, 2.0]
    path = write_video(tmp_path / "variable.mkv", [0, 20, 40, 60, 80, 100, 120], times)
    assert_levels(read_clip(path, Clip(5, 48, 64, 2.0)), [0, 40, 60, 100, 120])
    assert_levels(read_clip(path, Clip(3, 48, 64, 10.0), 1.0), [60, 80, 100])


def test_time_counts_from_the_first_frame(tmp_path):
    path = write_video(tmp_path / "late.mkv", LEVELS[:25], [5 + number / 25 for number in range(25)])
    assert_levels(read_clip(path, Clip(3, 48, 64, 5.0), 0.2), [LEVELS[5], LEVELS[10], LEVELS[15]])


def test_more_frames_than_the_file_has_per_second_are_shown_twice(video):
    assert_levels(read_clip(video, Clip(4, 48, 64, 50.0), 0.401), [LEVELS[10], LEVELS[11], LEVELS[11], LEVELS[12]], 4)


def test_probe(video):
    assert probe(video) == Probe(50, 2.0, 25.0, 48, 64)


def test_probe_without_a_header(tmp_path):
    path = write_video(tmp_path / "live.mkv", LEVELS, options={"live": "1"})
    found = probe(path)
    assert (found.frames, found.fps) == (50, 25.0) and abs(found.seconds - 2.0) < 0.05


def test_the_end_is_an_error_and_named(video):
    read_clip(video, Clip(17, 8, 8, 8.2))
    with pytest.raises(UnreadableVideo, match=r"grey\.mp4: its frames end at 2\.000 s; asked for 0\.000 s to 2\.000 s"):
        read_clip(video, Clip(17, 8, 8, 8.0))
    with pytest.raises(UnreadableVideo, match="asked for 5.000 s"):
        read_clip(video, Clip(1, 8, 8, 8.0), 5.0)
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        read_clip(video, Clip(1, 8, 8, 8.0), -1.0)


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
def test_truncated_file(tmp_path, options, capfd):
    whole = write_video(tmp_path / "whole.mp4", LEVELS, options=options).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(UnreadableVideo, match="cut.mp4"):
        read_clip(path, Clip(50, 48, 64, 25.0))
    if options:
        assert_levels(read_clip(path, Clip(10, 48, 64, 25.0)), LEVELS[:10])
    assert capfd.readouterr().err == ""


def test_files_without_video(tmp_path):
    (tmp_path / "text.mp4").write_text("not a video\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://localhost:1/a.ts\n")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 8000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    write_video(tmp_path / "no_frames.mkv", [])
    reasons = {
        "missing.mp4": "no such file",
        "missing.png": "no such file",
        "text.mp4": "Invalid data",
        "empty.mp4": "",
        "playlist.mp4": "",
        "sound.mp4": "no video stream",
        "no_frames.mkv": "",
    }
    for name, reason in reasons.items():
        for read in (lambda path: read_clip(path, Clip(1, 8, 8)), probe):
            with pytest.raises(UnreadableVideo, match=f"{name}: .*{reason}"):
                read(tmp_path / name)


def test_pixel_formats(tmp_path):
    for pixels in ("gray", "yuv420p10le", "yuv444p", "yuvj420p"):
        path = write_video(tmp_path / f"{pixels}.mkv", LEVELS[:5], codec="ffv1" if pixels != "yuvj420p" else "mjpeg", pixels=pixels)
        assert_levels(read_clip(path, Clip(5, 48, 64, 25.0)), LEVELS[:5], 4)


def test_odd_sizes(tmp_path):
    path = write_video(tmp_path / "odd.mkv", LEVELS[:3], codec="ffv1", size=(37, 53), pixels="yuv444p")
    assert_levels(read_clip(path, Clip(3, 31, 17, 25.0)), LEVELS[:3], 4)


def test_colours(tmp_path):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:16] = (200, 40, 90)
    with av.open(str(tmp_path / "red.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    found = read_clip(tmp_path / "red.mkv", Clip(1, 32, 32))[:, 0]
    assert (found[:, 4, 4].int() - torch.tensor([200, 40, 90])).abs().max() <= 3
    assert found[:, 28, 4].max() <= 3


def turn_clockwise(path: Path, quarters: int = 1) -> None:
    """Mark a video of 48 x 64 pixels as turned by 90 degrees or a multiple, as phones do."""
    content = bytearray(path.read_bytes())
    # The matrix of the track header that turns a frame and moves it back into the picture.
    sine, cosine = ((0, 1), (1, 0), (0, -1), (-1, 0))[quarters]
    corner = ((0, 0), (48, 0), (64, 48), (0, 64))[quarters]
    matrix = struct.pack(">9i", *(value << 16 for value in (cosine, sine, 0, -sine, cosine, 0, *corner)), 1 << 30)
    place = content.index(b"tkhd") + 44
    content[place : place + 36] = matrix
    path.write_bytes(content)


@pytest.mark.parametrize(("quarters", "bright", "dark"), [(1, (4, 24), (60, 24)), (2, (24, 60), (24, 4)), (3, (60, 24), (4, 24))])
def test_rotation_mark_of_a_phone(tmp_path, quarters, bright, dark):
    path = write_video(tmp_path / "phone.mp4", [100] * 5)
    turn_clockwise(path, quarters)
    size = (48, 64) if quarters == 2 else (64, 48)
    found = read_clip(path, Clip(5, *size, 25.0))[0, 0].int()
    # The bright left half is now the upper, the right, or the lower one.
    assert abs(found[bright] - 140) <= 4 and abs(found[dark] - 100) <= 4


@pytest.mark.parametrize(("codec", "pixels", "suffix"), [("ffv1", "yuva420p", "mkv"), ("qtrle", "argb", "mov"), ("png", "rgba", "mov")])
def test_transparent_parts_of_a_video_turn_white(tmp_path, codec, pixels, suffix):
    path = tmp_path / f"alpha.{suffix}"
    picture = np.full((32, 32, 4), (200, 40, 90, 255), np.uint8)
    picture[:, 16:, 3] = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, pixels
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgba")))
        container.mux(stream.encode())
    found = read_clip(path, Clip(1, 32, 32))[:, 0].int()
    assert (found[:, 8, 4] - torch.tensor([200, 40, 90])).abs().max() <= 4 and found[:, 8, 28].min() >= 252


@pytest.mark.parametrize("codec", ["mpeg2video", "libx264"])
def test_an_interlaced_frame_shows_one_time_only(tmp_path, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec} here")
    with av.open(str(tmp_path / "camera.mkv"), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"flags": "+ildct+ilme"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for level in LEVELS[:10]:
            picture = np.full((48, 64, 3), level, np.uint8)
            picture[1::2] += 100
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    found = read_clip(tmp_path / "camera.mkv", Clip(10, 48, 64, 25.0)).int()
    assert (found.amax(dim=(0, 2, 3)) - torch.tensor(LEVELS[:10])).abs().max() <= 12


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts"])
def test_only_the_frames_around_a_clip_are_decoded(tmp_path, monkeypatch, suffix):
    path = write_video(tmp_path / f"long.{suffix}", [100] * 1500, codec="mpeg4", size=(16, 16))
    decoded, decode = [], datamodules.decoding.frames._decode

    def counted(*arguments):
        for frame in decode(*arguments):
            decoded.append(frame.time)
            yield frame

    monkeypatch.setattr(datamodules.decoding.frames, "_decode", counted)
    for start in (0.0, 29.3, 58.0):
        decoded.clear()
        read_clip(path, Clip(9, 16, 16, 8.0), start)
        # A clip takes 26 frames; a keyframe comes every 10. Formats without an index look back by a second, and all for the first frame.
        assert len(decoded) < 26 + 10 + 2 * 25 + 3, (start, len(decoded))


def test_picture_is_a_clip_of_one_frame(tmp_path):
    picture = np.full((40, 60, 4), (10, 200, 30, 255), np.uint8)
    picture[:, :30, 3] = 0
    Image.fromarray(picture).save(tmp_path / "a.png")
    found = read_clip(tmp_path / "a.png", Clip(1, 40, 60))[:, 0]
    assert found[:, 20, 5].tolist() == [255, 255, 255] and found[:, 20, 55].tolist() == [10, 200, 30]
    assert (probe(tmp_path / "a.png").frames, probe(tmp_path / "a.png").width) == (1, 60)
    with pytest.raises(UnreadableVideo, match=r"a\.png: an image has one frame.* asked for 5"):
        read_clip(tmp_path / "a.png", Clip(5, 40, 60))


def test_picture_modes(tmp_path):
    grey = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(grey).save(tmp_path / "grey.webp", lossless=True)
    for name in ("grey.png", "grey16.png", "palette.png", "grey.webp"):
        found = read_clip(tmp_path / name, Clip(1, 64, 64))[:, 0]
        assert (found.int() - torch.from_numpy(grey).int()).abs().max() <= 1, name


def test_picture_orientation(tmp_path):
    picture = Image.fromarray(np.repeat(np.uint8([[[250] * 3, [0] * 3]]), 32, axis=0).repeat(32, axis=1))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn clockwise by 90 degrees to see it upright.
    picture.save(tmp_path / "phone.jpg", exif=exif)
    found = read_clip(tmp_path / "phone.jpg", Clip(1, 64, 32))[0, 0]
    assert found[2].min() > 200 and found[-3].max() < 50


def test_damaged_picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    (tmp_path / "text.png").write_text("text")
    for name in ("half.png", "text.png"):
        with pytest.raises(UnreadableVideo, match=name):
            read_clip(tmp_path / name, Clip(1, 8, 8))


def test_a_mirrored_clip_is_mirrored_at_any_size(video):
    for clip in (Clip(5, 48, 64, 25.0), Clip(5, 24, 32, 25.0)):
        assert read_clip(video, clip, framing=Framing(mirrored=True)).equal(read_clip(video, clip).flip(-1))
