"""Building blocks of encoder and decoder, with the structure and parameter names of Infinity's image tokenizer."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.tokenizer.architecture import Architecture
from modules.tokenizer.causal_conv import CausalConv3d, ConvCache
from modules.tokenizer.winograd.conv import winograd_applies, winograd_upsample_conv3d


class FrameNorm(nn.Module):
    """Group norm of each frame separately: no statistics over time, so the network stays causal.

    Args:
        channels: Channels, divisible by ``groups``.
        groups: Number of groups; 0 takes the published rule: 32 if that divides the channels, else 24.

    Raises:
        ValueError: If the channels are not divisible by the groups.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        count = next((count for count in ((groups,) if groups else (32, 24)) if channels % count == 0), None)
        if count is None:
            raise ValueError(f"tokenizer channels must be divisible by {groups or '32 or 24'} norm groups, got {channels}")
        self.norm = nn.GroupNorm(count, channels, eps=1e-6)

    def forward(self, video: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        images = self.norm(rearrange(video, "b c t h w -> (b t) c h w"))
        return rearrange(images, "(b t) c h w -> b c t h w", t=video.shape[2])


class ResidualBlock(nn.Module):
    """Twice norm, swish and convolution, with a skip connection, a 1 x 1 convolution if the number of channels changes."""

    def __init__(self, channels_in: int, channels_out: int, temporal_kernel: int, groups: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(channels_in, groups)
        self.conv1 = CausalConv3d(channels_in, channels_out, temporal_kernel=temporal_kernel)
        self.norm2 = FrameNorm(channels_out, groups)
        self.conv2 = CausalConv3d(channels_out, channels_out, temporal_kernel=temporal_kernel)
        self.nin_shortcut = CausalConv3d(channels_in, channels_out, kernel=1) if channels_in != channels_out else nn.Identity()

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        inplace = not torch.is_grad_enabled()  # allocating memory is expensive
        hidden = self.conv1(F.silu(self.norm1(video), inplace=inplace), cache)
        hidden = self.conv2(F.silu(self.norm2(hidden), inplace=inplace), cache)
        return hidden.add_(self.nin_shortcut(video)) if inplace else self.nin_shortcut(video) + hidden


class Downsample(nn.Module):
    """Strided convolution that halves height and width, and if ``temporal`` also time: ``1 + 2n`` frames become ``1 + n``."""

    def __init__(self, channels: int, temporal_kernel: int, temporal: bool) -> None:
        super().__init__()
        time_stride = 2 if temporal else 1
        self.conv = CausalConv3d(channels, channels, temporal_kernel=temporal_kernel, stride=2, temporal_stride=time_stride)

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        return self.conv(video, cache)


class Upsample(nn.Module):
    """Nearest-neighbour upsampling of height and width, and if ``temporal`` also of time, then a convolution: ``1 + n`` to ``1 + 2n``.

    With ``temporal`` each frame is repeated and the convolution has one padding frame less, so the first frame is not repeated.
    """

    def __init__(self, channels: int, temporal_kernel: int, temporal: bool) -> None:
        super().__init__()
        self.factors = (2.0 if temporal else 1.0, 2.0, 2.0)
        # Cached and padded before upsampling: one frame becomes two if time is doubled, of which the first output needs one.
        before = temporal_kernel - 2 if temporal else temporal_kernel - 1
        self.conv = CausalConv3d(channels, channels, temporal_kernel=temporal_kernel, temporal_padding=before)

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        convolution, temporal = self.conv.conv, self.factors[0] == 2
        first = cache is None or self.conv not in cache
        frames = self.conv.extend(video, cache)
        if winograd_applies(frames, convolution.weight, upsample=True) and convolution.bias is not None:
            result = winograd_upsample_conv3d(frames, convolution.weight, convolution.bias, temporal)
            return result[:, :, 1:] if temporal and first else result
        large = F.interpolate(frames, scale_factor=self.factors, mode="nearest")
        return self.conv.convolve(large[:, :, 1:] if temporal and first else large)


class Level(nn.Module):
    """Residual blocks at one resolution."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, shape: Architecture) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b, shape.temporal_kernel, shape.groups) for a, b in pairwise(widths))

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        for block in self.block:
            video = block(video, cache)
        return video


class Middle(nn.Module):
    """Two residual blocks at the latent resolution, without attention, as in the published tokenizer."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        deepest = shape.widths[-1]
        self.block_1 = ResidualBlock(deepest, deepest, shape.temporal_kernel, shape.groups)
        self.block_2 = ResidualBlock(deepest, deepest, shape.temporal_kernel, shape.groups)

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        return self.block_2(self.block_1(video, cache), cache)
