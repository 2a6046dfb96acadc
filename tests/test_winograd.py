"""Winograd convolutions equal plain ones for all alignments of images and clips with tiles."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.tokenizer.winograd.conv import winograd_applies, winograd_conv3d, winograd_convolutions, winograd_upsample_conv3d

SIZES = [(1, 1), (1, 6), (2, 3), (4, 4), (7, 5), (8, 12), (17, 9)]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def make_layer(channels_in: int, channels_out: int, taps: int) -> tuple[Tensor, Tensor]:
    return torch.randn(channels_out, channels_in, taps, 3, 3) / (9 * taps * channels_in) ** 0.5, torch.randn(channels_out)


def plain(extended: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """In double precision, so that only rounding of the Winograd version remains."""
    return F.conv3d(F.pad(extended.double(), (1, 1, 1, 1)), weight.double(), bias.double())


def assert_near(result: Tensor, exact: Tensor) -> None:
    assert result.shape == exact.shape and result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(result.double(), exact, rtol=0, atol=3e-5)


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 9])
def test_equals_the_plain_convolution(taps: int, frames: int) -> None:
    weight, bias = make_layer(5, 7, taps)
    for size in SIZES:
        extended = torch.randn(2, 5, frames + taps - 1, *size)
        assert_near(winograd_conv3d(extended, weight, bias), plain(extended, weight, bias))


@pytest.mark.parametrize("taps", [1, 3])
def test_upsampling_in_space(taps: int) -> None:
    weight, bias = make_layer(5, 7, taps)
    for frames, size in product([1, 2, 4, 5], SIZES):
        extended = torch.randn(2, 5, frames + taps - 1, *size)
        large = F.interpolate(extended, scale_factor=(1.0, 2.0, 2.0))
        assert_near(winograd_upsample_conv3d(extended, weight, bias, temporal=False), plain(large, weight, bias))


def test_upsampling_in_space_and_time() -> None:
    weight, bias = make_layer(5, 7, 3)
    for frames, size in product([1, 2, 5], SIZES):
        extended = torch.randn(2, 5, frames + 1, *size)
        large = F.interpolate(extended, scale_factor=2.0)
        assert_near(winograd_upsample_conv3d(extended, weight, bias, temporal=True), plain(large, weight, bias))


def test_upsampling_a_video_that_starts_with_a_single_frame() -> None:
    weight, bias = make_layer(5, 7, 3)
    video = torch.randn(1, 5, 3, 4, 6)
    causal = F.pad(F.interpolate(video, scale_factor=2.0), (0, 0, 0, 0, 1, 0))
    result = winograd_upsample_conv3d(F.pad(video, (0, 0, 0, 0, 1, 0)), weight, bias, temporal=True)
    torch.testing.assert_close(result[:, :, 1:].double(), plain(causal, weight, bias), rtol=0, atol=3e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_many_blocks_in_both_layouts(layout: torch.memory_format) -> None:
    weight, bias = make_layer(16, 24, 3)
    extended = torch.randn(1, 16, 15, 50, 70).contiguous(memory_format=layout)
    before = extended.clone()
    assert_near(winograd_conv3d(extended, weight, bias), plain(extended, weight, bias))
    assert torch.equal(extended, before)


def test_shared_buffers_carry_no_values_over() -> None:
    """A second layer with other sizes gets the right result, and so does the first one after its weights have changed."""
    weight, bias = make_layer(6, 6, 3)
    small, large = torch.randn(1, 6, 3, 5, 5), torch.randn(1, 6, 7, 20, 20)
    with winograd_convolutions():
        results = [winograd_conv3d(video, weight, bias) for video in (large, small, large)]
        assert_near(results[0], plain(large, weight, bias))
        assert_near(results[1], plain(small, weight, bias))
        assert torch.equal(results[2], results[0])
        weight *= 2
        assert_near(winograd_conv3d(small, weight, bias), plain(small, weight, bias))


def test_applies_only_when_enabled_supported_and_faster() -> None:
    video, weight = torch.empty(1, 128, 6, 32, 32), torch.empty(128, 128, 3, 3, 3)
    assert not winograd_applies(video, weight)
    with winograd_convolutions():
        assert winograd_applies(video, weight)
        assert not winograd_applies(video.bfloat16(), weight.bfloat16())
        assert not winograd_applies(video[..., :4, :4], weight)
        assert not winograd_applies(video, weight[:3])
        assert not winograd_applies(video, weight[..., 1:2, 1:2])
        assert not winograd_applies(video.to("meta"), weight.to("meta"))
        with torch.autocast("cpu"):
            assert not winograd_applies(video, weight)
        with torch.inference_mode(False), torch.enable_grad():
            assert not winograd_applies(torch.empty(1, 128, 6, 32, 32), weight)
