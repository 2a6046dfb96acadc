"""Laws of colours: however they are made, they are the same."""

import av
import numpy as np
import pytest

from datamodules.pixels import pixels_of, planes_of


@pytest.mark.parametrize("kind", ["yuv420p", "yuv444p", "gray", "yuv420p10le"])
@pytest.mark.parametrize("size", [(48, 64), (37, 53), (36, 53)])
def test_the_fast_way_gives_the_same_pixels_or_none(kind, size):
    chance = np.random.default_rng(0)
    for colours in (1, 2, 5):
        frame = av.VideoFrame.from_ndarray(chance.integers(0, 255, (*size, 3), np.uint8), format="rgb24").reformat(format=kind)
        frame.colorspace = colours
        planes = planes_of(frame)
        assert (planes is not None) == (kind == "yuv420p" and size == (48, 64))
        if planes is not None:
            assert (np.stack(planes) == pixels_of(frame).numpy()).all()
            assert (pixels_of(frame).numpy() == frame.to_ndarray(format="rgb24").transpose(2, 0, 1)).all()
