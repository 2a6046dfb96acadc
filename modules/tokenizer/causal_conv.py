"""Causal 3D convolution, for whole videos and for chunks (paper 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.tokenizer.winograd.conv import winograd_applies, winograd_conv3d

# Last input frames of each convolution, needed by the next chunk. Each stream of chunks has its own cache, which is passed as an argument
# and never stored in a module, so that several videos can be streamed at the same time.
ConvCache = dict[nn.Module, Tensor]


class CausalConv3d(nn.Module):
    """3D convolution whose output at frame ``i`` depends on frames up to ``i`` only.

    Time is padded with zeros in front only, as in the 3D mode of Infinity's tokenizer. With zero padding, a kernel whose earlier temporal
    slices are zero equals the 2D convolution of its last slice, so inflation is exact.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel: Spatial kernel size, 1 or 3.
        temporal_kernel: Temporal kernel size; 1 is a 2D convolution of each frame.
        stride: Spatial stride. With stride 2 the image is padded right and below only.
        temporal_stride: Temporal stride.
        temporal_padding: Zero frames in front; ``temporal_kernel - 1`` if not given.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        *,
        temporal_kernel: int = 1,
        stride: int = 1,
        temporal_stride: int = 1,
        temporal_padding: int | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            channels_in,
            channels_out,
            kernel_size=(temporal_kernel, kernel, kernel),
            stride=(temporal_stride, stride, stride),
        )
        before = temporal_kernel - 1 if temporal_padding is None else temporal_padding
        side = kernel // 2
        space = (0, side, 0, side) if stride > 1 else (side, side, side, side)
        self.padding = (*space, before, 0)

    def forward(self, video: Tensor, cache: ConvCache | None = None) -> Tensor:
        """``(B, C_in, T, H, W)`` to ``(B, C_out, T', H', W')``.

        With ``cache`` the video is one chunk of a longer one: the cached frames of the previous chunk replace the zero padding, and are
        replaced by the last frames of this chunk.
        """
        if cache is None and torch.is_grad_enabled() and self.conv.kernel_size[0] > 1:
            return self.conv(F.pad(video, self.padding))  # training: the same result with one copy less saved for backward
        return self.convolve(self.extend(video, cache))

    def convolve(self, frames: Tensor) -> Tensor:
        """Convolve the frames that :meth:`extend` returned, padding in space only."""
        if self.conv.kernel_size[1] == 1:
            return F.linear(frames.movedim(1, -1), self.conv.weight.flatten(1), self.conv.bias).movedim(-1, 1)
        if self.conv.stride == (1, 1, 1) and winograd_applies(frames, self.conv.weight) and self.conv.bias is not None:
            return winograd_conv3d(frames, self.conv.weight, self.conv.bias)
        if self.conv.kernel_size[0] == 1 and self.conv.stride[0] == 1:
            return self._per_frame(frames)
        return self.conv(F.pad(frames, self.padding[:4]))

    def extend(self, chunk: Tensor, cache: ConvCache | None = None) -> Tensor:
        """Prepend the cached frames, or zeros, to a chunk, and cache the frames that the next output needs."""
        before = self.padding[4]
        if not before:
            return chunk
        earlier = None if cache is None else cache.get(self)
        frames = F.pad(chunk, (0, 0, 0, 0, before, 0)) if earlier is None else torch.cat([earlier, chunk], dim=2)
        if cache is not None:
            stride = self.conv.stride[0]
            outputs = (frames.shape[2] - before - 1) // stride + 1
            last = frames[:, :, outputs * stride :]
            cache[self] = last.clone() if earlier is None else earlier.copy_(last)
        return frames

    def _per_frame(self, video: Tensor) -> Tensor:
        """2D convolution of each frame: the same sums, several times faster on a CPU."""
        frames = video.shape[2]
        images = F.pad(rearrange(video, "b c t h w -> (b t) c h w"), self.padding[:4])
        images = F.conv2d(images, self.conv.weight.squeeze(2), self.conv.bias, stride=self.conv.stride[1:])
        return rearrange(images, "(b t) c h w -> b c t h w", t=frames)
