"""Colour conversion: the fast path gives the pixels of the general one or declines the frame."""

import numpy as np
from av import VideoFrame

from datamodules.decoding.pixels import pixels_of, write_planes


def planes_of(frame: VideoFrame) -> np.ndarray | None:
    """``(3, h, w)`` by the fast path; None if it declines."""
    target = np.full((2, 3, frame.height, frame.width), 7, np.uint8)
    written = write_planes(frame, target[1])
    assert (target[0] == 7).all()
    return target[1] if written else None


def noise(height: int, width: int, pixel_format: str = "yuv420p") -> VideoFrame:
    generator = np.random.default_rng(0)
    colours = VideoFrame.from_ndarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8), format="rgb24")
    return colours.reformat(format=pixel_format)


def test_planes_are_the_pixels() -> None:
    """libav's conversion to planes leaves out columns at some widths; those are not written."""
    for width in (*range(2, 50, 2), 64, 80, 96, 98):
        frame = noise(18, width)
        planes = planes_of(frame)
        assert (planes is not None) == (width % 16 == 0)
        assert planes is None or np.array_equal(planes, pixels_of(frame).numpy())


def test_planes_are_the_pixels_in_every_colour_space() -> None:
    for colours in (1, 2, 5):
        frame = noise(48, 64)
        frame.colorspace = colours
        planes = planes_of(frame)
        assert planes is not None and np.array_equal(planes, pixels_of(frame).numpy())
        assert np.array_equal(planes, frame.to_ndarray(format="rgb24").transpose(2, 0, 1))


def test_planes_of_other_formats_and_odd_sizes_are_not_written() -> None:
    for pixel_format in ("yuv444p", "yuv422p", "gray", "yuva420p", "yuv420p10le", "rgb24"):
        assert planes_of(noise(16, 32, pixel_format)) is None, pixel_format
    assert planes_of(noise(15, 32)) is None and planes_of(noise(16, 31)) is None
