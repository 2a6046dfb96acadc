"""Networks that tell true clips from reconstructed ones, patch by patch (paper 4.1; PatchGAN of Isola et al. 2017).

Our decisions: two critics, one for pictures and one for motion; group instead of batch norm, with which a clip's logits would depend on
the other clips of its batch and on the process it is in; 3 x 3 instead of 4 x 4 kernels in the two layers without stride, which would
otherwise shrink away what is left of small pictures.
"""

from __future__ import annotations

import math
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

# The first layers of the video critic halve time as well: what is compared later then spans several frames.
TEMPORAL_LAYERS = 2


class FrameCritic(nn.Module):
    """Judges every frame by itself.

    Args:
        channels: Width after the first layer; doubled by every layer up to eight times.
        layers: Number of layers that halve rows and columns.

    Raises:
        ValueError: If either is not positive.
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.smallest = 2**layers
        widths = list(pairwise(_widths(channels, layers)))
        strided = [nn.Conv2d(*pair, 4, stride=2, padding=1) for pair in widths[:layers]]
        self.network = _stacked([*strided, *(nn.Conv2d(*pair, 3, padding=1) for pair in widths[layers:])])

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` to logits ``(B, 1, T, h, w)``, high where it looks true.

        Raises:
            ValueError: If the frames are too small for the layers.
        """
        _check_size(video, self.smallest)
        logits = self.network(rearrange(video, "b c t h w -> (b t) c h w"))
        return rearrange(logits, "(b t) c h w -> b c t h w", t=video.shape[2])


class VideoCritic(nn.Module):
    """Judges space and time together, also of a single frame.

    Args:
        channels: Width after the first layer; doubled by every layer up to eight times.
        layers: Number of layers that halve rows and columns.

    Raises:
        ValueError: If either is not positive.
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        self.smallest = 2**layers
        widths = list(pairwise(_widths(channels, layers)))
        strided = [_halving(*pair, temporal=index < TEMPORAL_LAYERS) for index, pair in enumerate(widths[:layers])]
        self.network = _stacked([*strided, *(nn.Conv3d(*pair, 3, padding=1) for pair in widths[layers:])])

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` to logits ``(B, 1, t, h, w)``, high where it looks true.

        Raises:
            ValueError: If the frames are too small for the layers.
        """
        _check_size(video, self.smallest)
        return self.network(video)


def _widths(channels: int, layers: int) -> list[int]:
    """Channels before, between and after all layers: those with stride, and two without."""
    if channels < 1 or layers < 1:
        raise ValueError(f"a critic needs at least 1 channel and 1 layer, got channels {channels} and layers {layers}")
    return [3, *(channels * min(2**layer, 8) for layer in range(layers + 1)), 1]


def _halving(channels_in: int, channels_out: int, *, temporal: bool) -> nn.Conv3d:
    """Half the rows and columns, and half the frames where ``temporal``, rounded up so that one frame stays."""
    return nn.Conv3d(channels_in, channels_out, (3, 4, 4), stride=(2 if temporal else 1, 2, 2), padding=1)


def _stacked(convolutions: list[nn.Conv2d] | list[nn.Conv3d]) -> nn.Sequential:
    """The convolutions with leaky rectifiers between them, and norms but before the first; weights start small, as in PatchGAN."""
    parts: list[nn.Module] = []
    for index, convolution in enumerate(convolutions):
        nn.init.normal_(convolution.weight, std=0.02)
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        parts.append(convolution)
        if 0 < index < len(convolutions) - 1:
            parts.append(_norm(convolution.out_channels))
        if index < len(convolutions) - 1:
            parts.append(nn.LeakyReLU(0.2))
    return nn.Sequential(*parts)


def _norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups, but of at least four channels: single ones would lose all they say where one place is left."""
    return nn.GroupNorm(math.gcd(32, channels, max(channels // 4, 1)), channels)


def _check_size(video: Tensor, smallest: int) -> None:
    height, width = video.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(f"the critic's layers need frames of at least {smallest} x {smallest} pixels, got {height} x {width}")
