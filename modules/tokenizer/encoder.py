"""Causal 3D convolutional encoder (paper 4.1)."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.tokenizer.architecture import Architecture
from modules.tokenizer.causal_conv import CausalConv3d, ConvCache
from modules.tokenizer.layers import Downsample, FrameNorm, Level, Middle


class EncoderLevel(Level):
    """Residual blocks of one resolution, followed by downsampling except at the deepest level."""

    def __init__(self, shape: Architecture, level: int) -> None:
        widths, kernel = shape.widths, shape.temporal_kernel
        super().__init__(widths[max(level - 1, 0)], widths[level], shape.blocks, shape)
        last = level == shape.levels - 1
        self.downsample = None if last else Downsample(widths[level], kernel, shape.downsamples_time(level))

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        hidden = super().forward(video, cache)
        return hidden if self.downsample is None else self.downsample(hidden, cache)


class Encoder(nn.Module):
    """Encoder of video ``(B, 3, 1+T, H, W)`` in [-1, 1] to an unbounded latent ``(B, d, 1+T/tau, H/f, W/f)``."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape, self.patch = shape, shape.patch
        deepest, kernel = shape.widths[-1], shape.temporal_kernel
        self.conv_in = CausalConv3d(shape.pixel_channels, shape.widths[0], temporal_kernel=kernel)
        self.down = nn.ModuleList(EncoderLevel(shape, level) for level in range(shape.levels))
        self.mid = Middle(shape)
        self.norm_out = FrameNorm(deepest, shape.groups)
        self.conv_out = CausalConv3d(deepest, shape.bits, temporal_kernel=kernel)

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        """Encode a video, or with ``cache`` one chunk of a longer video: ``1 + T`` frames first, then ``T``, a multiple of tau."""
        patches = rearrange(video, "b c t (h p) (w q) -> b (c p q) t h w", p=self.patch, q=self.patch)
        hidden = self.conv_in(patches, cache)
        for level in self.down:
            hidden = level(hidden, cache)
        hidden = self.mid(hidden, cache)
        return self.conv_out(F.silu(self.norm_out(hidden)), cache)
