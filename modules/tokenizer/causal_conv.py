"""Convolution over space and time that sees only the past (paper 4.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.tokenizer.winograd.conv import convolve, pays

# What every convolution still needs of the chunks before: its last input frames. One for each stream of chunks, passed along and never
# kept in a module, so that several videos may be streamed side by side.
Past = dict[nn.Module, Tensor]


class CausalConv3d(nn.Module):
    """A 3D convolution whose output at frame ``i`` depends on frames up to ``i`` only.

    Time is padded with zeros in front and never behind, as in the 3D mode of Infinity's tokenizer; with zero padding, a kernel whose
    earlier temporal slices are zero equals the 2D convolution of its last slice, which is what makes inflation exact.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        kernel: Spatial kernel size, 1 or 3.
        temporal_kernel: Temporal kernel size; 1 makes it a convolution per frame.
        stride: Spatial stride. With stride 2 the picture is padded right and below only.
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

    def forward(self, video: Tensor, past: Past | None = None) -> Tensor:
        """``(B, C_in, T, H, W)`` to ``(B, C_out, T', H', W')``.

        With ``past`` the video is one chunk of a longer one: the frames kept from the chunk before stand in front of it instead of zeros,
        and its own last ones are written over these for the next.
        """
        if past is None and torch.is_grad_enabled() and self.conv.kernel_size[0] > 1:
            return self.conv(F.pad(video, self.padding))  # training: the same, and one copy less to keep for the gradient
        return self.within(self.extended(video, past))

    def within(self, frames: Tensor) -> Tensor:
        """The convolution of frames that :meth:`extended` gave: padded in space only."""
        if self.conv.kernel_size[1] == 1:
            return F.linear(frames.movedim(1, -1), self.conv.weight.flatten(1), self.conv.bias).movedim(-1, 1)
        if self.conv.stride == (1, 1, 1) and pays(frames, self.conv.weight) and self.conv.bias is not None:
            return convolve(frames, self.conv.weight, self.conv.bias)
        if self.conv.kernel_size[0] == 1 and self.conv.stride[0] == 1:
            return self._per_frame(frames)
        return self.conv(F.pad(frames, self.padding[:4]))

    def extended(self, chunk: Tensor, past: Past | None = None) -> Tensor:
        """The chunk behind what was kept, or behind zeros; keeps the frames from the first one on that the next output needs."""
        before = self.padding[4]
        if not before:
            return chunk
        earlier = None if past is None else past.get(self)
        frames = F.pad(chunk, (0, 0, 0, 0, before, 0)) if earlier is None else torch.cat([earlier, chunk], dim=2)
        if past is not None:
            stride = self.conv.stride[0]
            outputs = (frames.shape[2] - before - 1) // stride + 1
            kept = frames[:, :, outputs * stride :]
            past[self] = kept.clone() if earlier is None else earlier.copy_(kept)
        return frames

    def _per_frame(self, video: Tensor) -> Tensor:
        """The same sum as a 2D convolution of every frame, which is several times faster on CPU."""
        frames = video.shape[2]
        images = F.pad(rearrange(video, "b c t h w -> (b t) c h w"), self.padding[:4])
        images = F.conv2d(images, self.conv.weight.squeeze(2), self.conv.bias, stride=self.conv.stride[1:])
        return rearrange(images, "(b t) c h w -> b c t h w", t=frames)
