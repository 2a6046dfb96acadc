"""PatchGAN discriminators of frames and of video (paper 4.1; Isola et al. 2017).

Our decisions: two discriminators, one for single frames and one for motion; group norm instead of batch norm, which would make the logits
of a clip depend on the other clips of its batch and process; 3 x 3 instead of 4 x 4 kernels in the two layers without stride, which would
otherwise shrink the feature maps of small frames to nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

# The first layers of the video discriminator also halve time, so that the later ones compare several frames.
TEMPORAL_LAYERS = 2


class PatchDiscriminator(nn.Module, ABC):
    """Base of both discriminators: strided convolutions, then two without stride, to one logit per patch.

    Args:
        channels: Channels after the first layer; each layer doubles them, up to eight times.
        layers: Number of layers that halve height and width.

    Raises:
        ValueError: If either is not positive.
    """

    def __init__(self, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        if channels < 1 or layers < 1:
            raise ValueError(f"a discriminator needs at least 1 channel and 1 layer, got channels {channels} and layers {layers}")
        self.min_size = 2**layers
        widths = [3, *(channels * min(2**layer, 8) for layer in range(layers + 1)), 1]
        self.network = _stack([self._convolution(*pair, layer, layer < layers) for layer, pair in enumerate(pairwise(widths))])

    @abstractmethod
    def _convolution(self, channels_in: int, channels_out: int, layer: int, strided: bool) -> nn.Conv2d | nn.Conv3d:
        """Return the convolution of a layer, which halves the size if ``strided``."""

    def _check_size(self, video: Tensor) -> None:
        height, width = video.shape[-2:]
        if min(height, width) < self.min_size:
            raise ValueError(f"the discriminator needs frames of at least {self.min_size} x {self.min_size} pixels, got {height} x {width}")


class FrameDiscriminator(PatchDiscriminator):
    """2D discriminator that sees each frame separately. Arguments are those of :class:`PatchDiscriminator`."""

    def forward(self, video: Tensor) -> Tensor:
        """Logits ``(B, 1, T, h, w)`` of ``(B, 3, T, H, W)``, high for real patches.

        Raises:
            ValueError: If the frames are too small for the layers.
        """
        self._check_size(video)
        logits = self.network(rearrange(video, "b c t h w -> (b t) c h w"))
        return rearrange(logits, "(b t) c h w -> b c t h w", t=video.shape[2])

    def _convolution(self, channels_in: int, channels_out: int, layer: int, strided: bool) -> nn.Conv2d:
        return nn.Conv2d(channels_in, channels_out, 4 if strided else 3, stride=2 if strided else 1, padding=1)


class VideoDiscriminator(PatchDiscriminator):
    """3D discriminator over space and time; a single frame is accepted too. Arguments are those of :class:`PatchDiscriminator`."""

    def forward(self, video: Tensor) -> Tensor:
        """Logits ``(B, 1, t, h, w)`` of ``(B, 3, T, H, W)``, high for real patches.

        Raises:
            ValueError: If the frames are too small for the layers.
        """
        self._check_size(video)
        return self.network(video)

    def _convolution(self, channels_in: int, channels_out: int, layer: int, strided: bool) -> nn.Conv3d:
        if not strided:
            return nn.Conv3d(channels_in, channels_out, 3, padding=1)
        time_stride = 2 if layer < TEMPORAL_LAYERS else 1  # rounded up, so that one frame remains
        return nn.Conv3d(channels_in, channels_out, (3, 4, 4), stride=(time_stride, 2, 2), padding=1)


def _stack(convolutions: list[nn.Conv2d | nn.Conv3d]) -> nn.Sequential:
    """Convolutions with leaky ReLUs between them and norms from the second one on; small initial weights, as in PatchGAN."""
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
    """Group norm with up to 32 groups of at least four channels: at one position, a group of one channel is always zero."""
    return nn.GroupNorm(math.gcd(32, channels, max(channels // 4, 1)), channels)
