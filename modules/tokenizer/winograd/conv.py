"""Winograd convolutions over space and time for inference in float32 on CPUs; equal to ``F.conv3d`` up to rounding.

Four neighbouring outputs of a kernel with three taps need six products instead of twelve (:mod:`modules.tokenizer.winograd.schemes`), an
eighth over two spatial axes and time. After nearest-neighbour upsampling two outputs depend on two inputs only and need three products.
Products are summed over channels, so those of one position in a tile are one matrix product over all tiles. Tiles are processed in blocks
that fit the cache, and channels come last, so that all additions run over contiguous memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

import torch
from torch import Tensor

from modules.tokenizer.winograd.schemes import CAUSAL_UPSAMPLE, DIRECT, F4, ONE_TAP, UPSAMPLE, TileScheme

# Tiles of a block. Fewer slow the matrix products down, more do not fit the cache (measured with 1 MiB of L2 cache for two cores).
BLOCK = 128
# Minimum number of channels; MIN_CHANNELS_F4 is for three taps in time and at least four frames (measured).
MIN_CHANNELS, MIN_CHANNELS_F4 = 128, 32
# Minimum number of pixels times frames, below which the kernel transform takes longer than it saves (measured).
MIN_PIXELS, MIN_PIXELS_UPSAMPLE = 1000, 64


class Buffers:
    """Reusable buffers for intermediate results, by name: allocating new memory costs more than using it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Return an uninitialised float32 tensor, valid until the name is taken again."""
        size = prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size, dtype=torch.float32, device="cpu")
        return self._buffers[name][:size].view(shape)


_buffers: ContextVar[Buffers | None] = ContextVar("winograd_buffers", default=None)


@contextmanager
def winograd_convolutions() -> Iterator[None]:
    """Use Winograd convolutions where :func:`winograd_applies`. All calls share buffers, which are released at the end."""
    token = _buffers.set(Buffers())
    try:
        yield
    finally:
        _buffers.reset(token)


def winograd_applies(extended: Tensor, weight: Tensor, upsample: bool = False) -> bool:
    """True if Winograd convolutions are enabled, support this case and take less time than ``F.conv3d``.

    Args:
        extended: The input, preceded by its past frames.
        weight: ``(C_out, C_in, k, kernel, kernel)``.
        upsample: True for :func:`winograd_upsample_conv3d`, which saves time for smaller inputs too.
    """
    float32 = extended.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if _buffers.get() is None or torch.is_grad_enabled() or extended.device.type != "cpu" or not float32:
        return False
    frames = extended.shape[2] - weight.shape[2] + 1
    channels = MIN_CHANNELS_F4 if weight.shape[2] == 3 and frames >= 4 else MIN_CHANNELS
    pixels = MIN_PIXELS_UPSAMPLE if upsample else MIN_PIXELS
    supported = tuple(weight.shape[2:]) in ((1, 3, 3), (3, 3, 3))
    return supported and min(weight.shape[:2]) >= channels and frames * extended.shape[3:].numel() >= pixels


def winograd_conv3d(extended: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.conv3d`` with one zero pixel around each frame and no padding in time.

    Args:
        extended: ``(B, C_in, T+k-1, H, W)`` float32, including the frames before. Fastest with channels last.
        weight: ``(C_out, C_in, k, 3, 3)`` with ``k`` 1 or 3. Transformed in each call.
        bias: ``(C_out,)``.

    Returns:
        ``(B, C_out, T, H, W)``, channels last.
    """
    frames = extended.shape[2] - weight.shape[2] + 1
    return _convolve(extended, weight, bias, F4, _time_tiles(frames, weight.shape[2]))


def winograd_upsample_conv3d(extended: Tensor, weight: Tensor, bias: Tensor, temporal: bool) -> Tensor:
    """Nearest-neighbour upsampling followed by the convolution, without computing the upsampled video.

    Args:
        extended: ``(B, C_in, T+e, H, W)`` float32, not upsampled, including the ``e`` frames before: ``k - 1``, or 1 if ``temporal``.
        weight: ``(C_out, C_in, k, 3, 3)``, ``k`` 1 or 3, and 3 if ``temporal``.
        bias: ``(C_out,)``.
        temporal: Whether frames are doubled as well. Each of the inputs ``1 .. T`` of ``extended`` then has two outputs of the causal
            convolution over doubled frames: the one that ends with its first copy, and the one that ends with both. Where a video starts
            with a single frame, prepend a zero frame and drop the first output.

    Returns:
        ``(B, C_out, T or 2T, 2H, 2W)``, channels last.
    """
    frames = extended.shape[2] - (1 if temporal else weight.shape[2] - 1)
    parts = [(CAUSAL_UPSAMPLE, 0, frames)] if temporal else _time_tiles(frames, weight.shape[2])
    return _convolve(extended, weight, bias, UPSAMPLE, parts)


def _time_tiles(frames: int, taps: int) -> list[tuple[TileScheme, int, int]]:
    """Tiles that cover ``frames`` outputs: schemes with their first input and number of tiles."""
    if taps == 1:
        return [(ONE_TAP, 0, frames)]
    fours, rest = divmod(frames, 4)
    return [part for part in ((DIRECT, 0, rest), (F4, rest, fours)) if part[2]]


def _convolve(extended: Tensor, weight: Tensor, bias: Tensor, space: TileScheme, parts: Sequence[tuple[TileScheme, int, int]]) -> Tensor:
    videos = extended.contiguous(memory_format=torch.channels_last_3d).permute(0, 2, 3, 4, 1)
    tiles = [-(-side // space.step) for side in extended.shape[3:]]
    frames = [time.outputs * count for time, _, count in parts]
    result = extended.new_empty(len(videos), sum(frames), *(space.outputs * count for count in tiles), len(weight))
    buffers = _buffers.get() or Buffers()
    for (time, first, _), targets in zip(parts, result.split(frames, dim=1), strict=True):
        tiled = _TiledConvolution(time, space, weight, bias, buffers)
        for video, target in zip(videos, targets, strict=True):
            tiled.run(video[first:], target)
    height, width = (side * space.outputs // space.step for side in extended.shape[3:])
    return result[:, :, :height, :width].permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)


class _TiledConvolution:
    """Convolution with one scheme in time and one in space. Axes are (products,) frames, rows, columns, channels."""

    def __init__(self, time: TileScheme, space: TileScheme, weight: Tensor, bias: Tensor, buffers: Buffers) -> None:
        self.time, self.space, self.bias, self.buffers = time, space, bias, buffers
        self.kernels = self._transform_kernel(weight)

    def _transform_kernel(self, weight: Tensor) -> Tensor:
        """Kernels of all positions in a tile, ``(rows, columns * times, C_in, C_out)``."""
        space, time = (torch.tensor(scheme.kernel, dtype=torch.float64) for scheme in (self.space, self.time))
        positions = torch.kron(torch.kron(space, space), time).view(-1, 3, 3, time.shape[1])
        positions = positions.permute(0, 3, 1, 2).flatten(1).to(weight.dtype)  # columns in the order of the weight's axes
        kernels = self.buffers.take("kernels", len(positions), weight.shape[:2].numel())
        torch.mm(positions, weight.flatten(2).flatten(0, 1).t(), out=kernels)
        return kernels.view(len(space), -1, *weight.shape[:2]).transpose(2, 3)

    def run(self, source: Tensor, target: Tensor) -> None:
        """``source`` ``(frames, H, W, C_in)`` to ``target`` ``(times * outputs, rows * outputs, columns * outputs, C_out)``."""
        time, space = self.time, self.space
        target = target.unflatten(0, (-1, time.outputs)).unflatten(2, (-1, space.outputs))
        times, _, rows, _, width, _ = target.shape
        columns = width // space.outputs
        row_step = max(1, BLOCK // columns)
        time_step = max(1, BLOCK // (columns * min(rows, row_step)))
        for first in range(0, times, time_step):
            frames = source[first * time.step : (min(first + time_step, times) - 1) * time.step + time.inputs]
            for top in range(0, rows, row_step):
                out = target[first : first + time_step, :, top : top + row_step]
                self._block(frames, top * space.step - 1, columns, out)

    def _block(self, frames: Tensor, top: int, columns: int, out: Tensor) -> None:
        """Compute the tiles from image row ``top`` on, to ``out`` ``(times, outputs, rows, outputs, width, C_out)``."""
        times, _, rows, _, width, _ = out.shape
        side, channels = self.space.outputs, len(self.bias)
        bands = self._transform_input("bands", self._padded(frames, top, times, rows, columns), 2, rows)
        wide = self.buffers.take("wide", *bands.shape[:4], columns, side, channels)
        for kernels, band, columns_out in zip(self.kernels, bands, wide, strict=True):
            factors = self._transform_input("factors", band, 3, columns)
            products = self.buffers.take("products", *factors.shape[:5], channels)
            flat = factors.view(len(kernels), -1, factors.shape[-1])
            torch.bmm(flat, kernels, out=products.view(len(kernels), -1, channels))
            self.space.transform_output(products, columns_out.unbind(4))
        high = self.buffers.take("high", *wide.shape[1:4], side, width, channels)
        self.space.transform_output(wide.flatten(4, 5), high.unbind(3))
        self.time.transform_output(high, out.unbind(1))
        out += self.bias

    def _padded(self, frames: Tensor, top: int, times: int, rows: int, columns: int) -> Tensor:
        """Factors along time, ``(products, times, height, width, C_in)``, with zeros around the image."""
        _, image_height, image_width, channels = frames.shape
        height, width = ((count - 1) * self.space.step + self.space.inputs for count in (rows, columns))
        above, below = max(0, -top), min(height, image_height - top)
        padded = self.buffers.take("padded", len(self.time.kernel), times, height, width, channels)
        for border in (padded[:, :, :above], padded[:, :, below:], padded[:, :, :, :1], padded[:, :, :, image_width + 1 :]):
            border.zero_()
        values = _tile_inputs(frames[:, top + above : top + below], self.time, 0, times)
        self.time.transform_input(values, padded[:, :, above:below, 1 : image_width + 1])
        return padded

    def _transform_input(self, name: str, values: Tensor, axis: int, tiles: int) -> Tensor:
        """Factors along a spatial axis, with the axis of products in front."""
        inputs = _tile_inputs(values, self.space, axis, tiles)
        out = self.buffers.take(name, len(self.space.kernel), *inputs[0].shape)
        self.space.transform_input(inputs, out)
        return out


def _tile_inputs(values: Tensor, scheme: TileScheme, axis: int, tiles: int) -> list[Tensor]:
    """First, second, ... input of all tiles along one axis."""
    before = (slice(None),) * axis
    return [values[(*before, slice(k, k + (tiles - 1) * scheme.step + 1, scheme.step))] for k in range(scheme.inputs)]
