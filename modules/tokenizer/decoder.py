"""Causal 3D convolutional decoder (paper 4.1)."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.tokenizer.architecture import Architecture
from modules.tokenizer.causal_conv import CausalConv3d, ConvCache
from modules.tokenizer.layers import FrameNorm, Level, Middle, Upsample


class DecoderLevel(Level):
    """Residual blocks of one resolution, followed by upsampling except at the finest level."""

    def __init__(self, shape: Architecture, level: int) -> None:
        widths, kernel = shape.widths, shape.temporal_kernel
        super().__init__(widths[min(level + 1, shape.levels - 1)], widths[level], shape.blocks + 1, shape)
        self.upsample = None if level == 0 else Upsample(widths[level], kernel, shape.downsamples_time(level - 1))

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        hidden = super().forward(video, cache)
        return hidden if self.upsample is None else self.upsample(hidden, cache)


class Decoder(nn.Module):
    """Decoder of a latent ``(B, d, t, h, w)`` to video ``(B, 3, 1+(t-1)*tau, h*f, w*f)``, not clamped."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.patch = shape.patch
        deepest, kernel = shape.widths[-1], shape.temporal_kernel
        self.conv_in = CausalConv3d(shape.bits, deepest, temporal_kernel=kernel)
        self.mid = Middle(shape)
        # Stored finest first, as in the published files; applied deepest first.
        self.up = nn.ModuleList(DecoderLevel(shape, level) for level in range(shape.levels))
        self.norm_out = FrameNorm(shape.widths[0], shape.groups)
        self.conv_out = CausalConv3d(shape.widths[0], shape.pixel_channels, temporal_kernel=kernel)

    def forward(self, latent: Tensor, cache: ConvCache | None = None) -> Tensor:
        """Decode a latent, or with ``cache`` one chunk of a longer latent; chunks after the first give ``t * tau`` frames."""
        hidden = self.mid(self.conv_in(latent, cache), cache)
        for level in reversed(self.up):
            hidden = level(hidden, cache)
        patches = self.conv_out(F.silu(self.norm_out(hidden)), cache)
        return rearrange(patches, "b (c p q) t h w -> b c t (h p) (w q)", p=self.patch, q=self.patch)
