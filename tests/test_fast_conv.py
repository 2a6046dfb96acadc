"""The fast convolutions give the sums of the plain ones, for every way a picture and a clip fall into tiles."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modules.tokenizer.winograd.conv import convolve, fast_convolutions, pays, upsample_convolve


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def make_layer(channels_in: int, channels_out: int, taps: int) -> tuple[Tensor, Tensor]:
    return torch.randn(channels_out, channels_in, taps, 3, 3) / (9 * taps * channels_in) ** 0.5, torch.randn(channels_out)


def plain(extended: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """In double precision, so that the comparison sees the fast version's rounding only."""
    return F.conv3d(F.pad(extended.double(), (1, 1, 1, 1)), weight.double(), bias.double())


def assert_near(fast: Tensor, exact: Tensor) -> None:
    assert fast.shape == exact.shape and fast.dtype == torch.float32
    assert fast.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(fast.double(), exact, rtol=0, atol=3e-5)


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (4, 4), (7, 5), (8, 12), (17, 9)])
def test_equals_the_plain_convolution(taps: int, frames: int, size: tuple[int, int]):
    weight, bias = make_layer(5, 7, taps)
    extended = torch.randn(2, 5, frames + taps - 1, *size)
    assert_near(convolve(extended, weight, bias), plain(extended, weight, bias))


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("frames", [1, 2, 4, 5])
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (2, 3), (7, 5), (8, 8)])
def test_upsampling_in_space(taps: int, frames: int, size: tuple[int, int]):
    weight, bias = make_layer(5, 7, taps)
    extended = torch.randn(2, 5, frames + taps - 1, *size)
    large = F.interpolate(extended, scale_factor=(1.0, 2.0, 2.0))
    assert_near(upsample_convolve(extended, weight, bias, temporal=False), plain(large, weight, bias))


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (8, 8)])
def test_upsampling_in_space_and_time(frames: int, size: tuple[int, int]):
    weight, bias = make_layer(5, 7, 3)
    extended = torch.randn(2, 5, frames + 1, *size)
    large = F.interpolate(extended, scale_factor=2.0)
    assert_near(upsample_convolve(extended, weight, bias, temporal=True), plain(large, weight, bias))


def test_a_video_that_starts_with_a_single_frame():
    weight, bias = make_layer(5, 7, 3)
    video = torch.randn(1, 5, 3, 4, 6)
    causal = F.pad(F.interpolate(video, scale_factor=2.0), (0, 0, 0, 0, 1, 0))
    fast = upsample_convolve(F.pad(video, (0, 0, 0, 0, 1, 0)), weight, bias, temporal=True)
    torch.testing.assert_close(fast[:, :, 1:].double(), plain(causal, weight, bias), rtol=0, atol=3e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_many_blocks_in_both_layouts(layout: torch.memory_format):
    weight, bias = make_layer(16, 24, 3)
    extended = torch.randn(1, 16, 15, 50, 70).contiguous(memory_format=layout)
    assert_near(convolve(extended, weight, bias), plain(extended, weight, bias))


def test_shared_memory_keeps_no_values():
    """A second layer with other sizes gets the right result, and so does the first one after its weights have changed."""
    weight, bias = make_layer(6, 6, 3)
    small, large = torch.randn(1, 6, 3, 5, 5), torch.randn(1, 6, 7, 20, 20)
    with fast_convolutions():
        results = [convolve(video, weight, bias) for video in (large, small, large)]
        assert_near(results[0], plain(large, weight, bias))
        assert_near(results[1], plain(small, weight, bias))
        assert torch.equal(results[2], results[0])
        weight *= 2
        assert_near(convolve(small, weight, bias), plain(small, weight, bias))


def test_input_is_left_alone():
    weight, bias = make_layer(4, 4, 3)
    extended = torch.randn(1, 4, 6, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    before = extended.clone()
    convolve(extended, weight, bias)
    assert torch.equal(extended, before)


def test_pays_only_where_it_may():
    video, weight = torch.empty(1, 128, 6, 32, 32), torch.empty(128, 128, 3, 3, 3)
    assert not pays(video, weight)
    with fast_convolutions():
        assert pays(video, weight)
        assert not pays(video.bfloat16(), weight.bfloat16())
        assert not pays(video[..., :4, :4], weight)
        assert not pays(video, weight[:3])
        assert not pays(video, weight[..., 1:2, 1:2])
        assert not pays(video.to("meta"), weight.to("meta"))
        with torch.autocast("cpu"):
            assert not pays(video, weight)
        with torch.inference_mode(False), torch.enable_grad():
            assert not pays(torch.empty(1, 128, 6, 32, 32), weight)
