"""Laws of colours: the fast way gives the pixels of the general one, or leaves the frame to it."""

import numpy as np
import pytest
from av import VideoFrame

from datamodules.decoding.pixels import pixels_of, put_planes


def planes_of(frame: VideoFrame) -> np.ndarray | None:
    """``(3, h, w)`` by the fast way; None where there is none."""
    place = np.full((2, 3, frame.height, frame.width), 7, np.uint8)
    made = put_planes(frame, place[1])
    assert (place[0] == 7).all()
    return place[1] if made else None


def noise(height: int, width: int, kind: str = "yuv420p") -> VideoFrame:
    generator = np.random.default_rng(0)
    colours = VideoFrame.from_ndarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8), format="rgb24")
    return colours.reformat(format=kind)


@pytest.mark.parametrize("height", [16, 18, 34])
@pytest.mark.parametrize("width", range(2, 100, 2))
def test_planes_are_the_pixels(height: int, width: int) -> None:
    """Columns of some widths are left out by libav's way to planes."""
    frame = noise(height, width)
    planes = planes_of(frame)
    assert planes is not None or width % 16
    if planes is not None:
        assert np.array_equal(planes, pixels_of(frame).numpy())


@pytest.mark.parametrize("colours", [1, 2, 5])
def test_planes_are_the_pixels_in_every_space_of_colours(colours: int) -> None:
    frame = noise(48, 64)
    frame.colorspace = colours
    planes = planes_of(frame)
    assert planes is not None and np.array_equal(planes, pixels_of(frame).numpy())
    assert np.array_equal(planes, frame.to_ndarray(format="rgb24").transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["yuv444p", "yuv422p", "gray", "yuva420p", "yuv420p10le", "rgb24"])
def test_planes_of_other_kinds_are_not_made(kind: str) -> None:
    assert planes_of(noise(16, 32, kind)) is None


@pytest.mark.parametrize(("height", "width"), [(15, 32), (16, 31)])
def test_planes_of_odd_sizes_are_not_made(height: int, width: int) -> None:
    assert planes_of(noise(height, width)) is None
