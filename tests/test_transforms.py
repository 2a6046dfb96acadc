"""Resizing and cropping of frames of any shape to any size."""

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.decoding.transforms import Framing


def test_framing_cuts_the_longer_side():
    ramp = torch.arange(100, dtype=torch.uint8).expand(3, 40, 100)
    for across, first in ((0.0, 0), (0.5, 30), (1.0, 60)):
        assert Framing(across=across)(ramp, 40, 40)[0, 0].tolist() == list(range(first, first + 40))
    assert Framing(mirrored=True)(ramp, 40, 40)[0, 0].tolist() == list(range(69, 29, -1))
    upright = Framing(down=1.0)(ramp.transpose(1, 2), 40, 40)
    assert upright[0, :, 0].tolist() == list(range(60, 100))


def test_resizing_is_that_of_pillow():
    for rows, columns, side in ((128, 128, 64), (90, 160, 45), (50, 50, 77)):
        assert_like_pillow(rows, columns, side)


def assert_like_pillow(rows, columns, side):
    pixels = torch.randint(0, 256, (rows, columns, 3), dtype=torch.uint8)
    width = side * columns // rows
    expected = torch.from_numpy(np.array(Image.fromarray(pixels.numpy()).resize((width, side), Image.Resampling.BICUBIC)))
    found = Framing()(pixels.permute(2, 0, 1), side, width).permute(1, 2, 0)
    assert (found.int() - expected.int()).abs().max() <= 1


def test_shrinking_averages():
    stripes = torch.tensor([0, 255], dtype=torch.uint8).repeat(64).expand(3, 128, 128)
    found = Framing()(stripes, 16, 16).float()
    assert (found - 127.5).abs().max() < 12


def test_framing_gives_the_size_for_any_shape():
    for rows, columns in ((1, 1), (7, 200), (33, 32), (64, 64), (500, 3)):
        for height, width in ((32, 32), (17, 63), (1, 5)):
            found = Framing(1.0, 0.0, True)(torch.full((3, rows, columns), 77, dtype=torch.uint8), height, width)
            assert found.shape == (3, height, width) and found.dtype == torch.uint8 and (found == 77).all()


def test_framing_refuses_places_outside():
    with pytest.raises(ValueError, match="within 0..1, got 1.5"):
        Framing(down=1.5)
