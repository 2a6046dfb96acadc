"""The building blocks of the tokenizer's encoder and decoder, laid out and named as in Infinity's image tokenizer."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.tokenizer.architecture import Architecture
from modules.tokenizer.causal_conv import CausalConv3d, Past
from modules.tokenizer.winograd.conv import pays, upsample_convolve


class FrameNorm(nn.Module):
    """Group normalisation of every frame by itself: no statistic crosses time, so the network stays causal.

    Args:
        channels: Channels, divisible by ``groups``.
        groups: Number of groups; 0 takes the published rule: 32 where that divides the channels, else 24.

    Raises:
        ValueError: If the channels cannot be divided so.
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
    """Norm, swish, convolution, twice, beside a skip that is a 1 x 1 convolution where channels change."""

    def __init__(self, channels_in: int, channels_out: int, temporal_kernel: int, groups: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(channels_in, groups)
        self.conv1 = CausalConv3d(channels_in, channels_out, temporal_kernel=temporal_kernel)
        self.norm2 = FrameNorm(channels_out, groups)
        self.conv2 = CausalConv3d(channels_out, channels_out, temporal_kernel=temporal_kernel)
        self.nin_shortcut = CausalConv3d(channels_in, channels_out, kernel=1) if channels_in != channels_out else nn.Identity()

    def forward(self, video: Tensor, past: Past | None = None) -> Tensor:
        alone = not torch.is_grad_enabled()  # fresh memory is dear
        hidden = self.conv1(F.silu(self.norm1(video), inplace=alone), past)
        hidden = self.conv2(F.silu(self.norm2(hidden), inplace=alone), past)
        return hidden.add_(self.nin_shortcut(video)) if alone else self.nin_shortcut(video) + hidden


class Downsample(nn.Module):
    """Half the rows and columns, and half the frames where ``temporal``: ``1 + 2n`` frames become ``1 + n``."""

    def __init__(self, channels: int, temporal_kernel: int, temporal: bool) -> None:
        super().__init__()
        time_stride = 2 if temporal else 1
        self.conv = CausalConv3d(channels, channels, temporal_kernel=temporal_kernel, stride=2, temporal_stride=time_stride)

    def forward(self, video: Tensor, past: Past | None = None) -> Tensor:
        return self.conv(video, past)


class Upsample(nn.Module):
    """Twice the rows and columns, and where ``temporal`` also the frames: ``1 + n`` become ``1 + 2n``.

    Every latent frame is repeated and one padding frame less is put in front, so the first frame stays single.
    """

    def __init__(self, channels: int, temporal_kernel: int, temporal: bool) -> None:
        super().__init__()
        self.factors = (2.0 if temporal else 1.0, 2.0, 2.0)
        # Kept and padded before up-sampling: where frames are doubled, one frame gives two, of which the first output needs one.
        before = temporal_kernel - 2 if temporal else temporal_kernel - 1
        self.conv = CausalConv3d(channels, channels, temporal_kernel=temporal_kernel, temporal_padding=before)

    def forward(self, video: Tensor, past: Past | None = None) -> Tensor:
        convolution, temporal = self.conv.conv, self.factors[0] == 2
        first = past is None or self.conv not in past
        frames = self.conv.extended(video, past)
        if pays(frames, convolution.weight, doubled=True) and convolution.bias is not None:
            result = upsample_convolve(frames, convolution.weight, convolution.bias, temporal)
            return result[:, :, 1:] if temporal and first else result
        large = F.interpolate(frames, scale_factor=self.factors, mode="nearest")
        return self.conv.within(large[:, :, 1:] if temporal and first else large)


class Level(nn.Module):
    """Residual blocks at one resolution, and the change to the next one if there is any."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int, shape: Architecture) -> None:
        super().__init__()
        widths = [channels_in] + [channels_out] * blocks
        self.block = nn.ModuleList(ResidualBlock(a, b, shape.temporal_kernel, shape.groups) for a, b in pairwise(widths))

    def forward(self, video: Tensor, past: Past | None = None) -> Tensor:
        for block in self.block:
            video = block(video, past)
        return video


class Middle(nn.Module):
    """Two residual blocks at the latent resolution; the published tokenizer has no attention there."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        deepest = shape.widths[-1]
        self.block_1 = ResidualBlock(deepest, deepest, shape.temporal_kernel, shape.groups)
        self.block_2 = ResidualBlock(deepest, deepest, shape.temporal_kernel, shape.groups)

    def forward(self, video: Tensor, past: Past | None = None) -> Tensor:
        return self.block_2(self.block_1(video, past), past)
