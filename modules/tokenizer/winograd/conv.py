"""Convolutions with fewer multiplications: the sums of ``F.conv3d`` up to rounding, for inference in float32 on CPUs.

Four neighbouring outputs of a kernel with three taps need six products instead of twelve (:mod:`modules.tokenizer.winograd.schemes`), an
eighth over two spatial axes and time. After nearest-neighbour up-sampling two outputs see only two inputs, and three products do.
Products are summed over channels, so those of one position in a tile are one matrix product over all tiles. Tiles are handled in blocks
small enough for the cache, and channels come last, so that all additions run over contiguous memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod

import torch
from torch import Tensor

from modules.tokenizer.winograd.schemes import DOUBLED, DOUBLED_CAUSAL, FOUR, ONE, PER_FRAME, Scheme

# Tiles of one block. Fewer make the matrix products slow, more do not fit the cache (measured with 1 MiB of second level for two cores).
BLOCK = 128
# Below these channels :func:`pays` says no; the second is for three taps in time and at least four frames (measured).
MIN_CHANNELS, MIN_CHANNELS_FOUR = 128, 32
# And below these pixels times frames, where transforming the kernel takes longer than it saves; the second is for up-sampling (measured).
MIN_PIXELS, MIN_PIXELS_DOUBLED = 1000, 64


class Scratch:
    """Memory for intermediate results, taken again under the same name: fresh memory from the system costs more than using it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """A float32 tensor of that shape holding anything, valid until the name is taken again."""
        size = prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = torch.empty(size, dtype=torch.float32, device="cpu")
        return self._buffers[name][:size].view(shape)


_scratch: ContextVar[Scratch | None] = ContextVar("scratch", default=None)


@contextmanager
def fast_convolutions() -> Iterator[None]:
    """Inside, :func:`pays` may say yes, and all calls use the same memory, released at the end. No values are kept between calls."""
    token = _scratch.set(Scratch())
    try:
        yield
    finally:
        _scratch.reset(token)


def pays(extended: Tensor, weight: Tensor, doubled: bool = False) -> bool:
    """Whether the functions below are switched on, give the right result here and take less time than ``F.conv3d``.

    Args:
        extended: The input, with the frames before it.
        weight: ``(C_out, C_in, k, kernel, kernel)``.
        doubled: Whether :func:`upsample_convolve` is meant, which pays earlier.
    """
    single = extended.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if _scratch.get() is None or torch.is_grad_enabled() or extended.device.type != "cpu" or not single:
        return False
    frames = extended.shape[2] - weight.shape[2] + 1
    channels = MIN_CHANNELS_FOUR if weight.shape[2] == 3 and frames >= 4 else MIN_CHANNELS
    pixels = MIN_PIXELS_DOUBLED if doubled else MIN_PIXELS
    known = tuple(weight.shape[2:]) in ((1, 3, 3), (3, 3, 3))
    return known and min(weight.shape[:2]) >= channels and frames * extended.shape[3:].numel() >= pixels


def convolve(extended: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.conv3d`` with one zero pixel around every frame, valid in time.

    Args:
        extended: ``(B, C_in, T+k-1, H, W)`` float32, the frames before included. Fastest with channels last.
        weight: ``(C_out, C_in, k, 3, 3)`` with ``k`` 1 or 3. Transformed anew in every call.
        bias: ``(C_out,)``.

    Returns:
        ``(B, C_out, T, H, W)``, channels last.
    """
    frames = extended.shape[2] - weight.shape[2] + 1
    return _batched(extended, weight, bias, FOUR, _frame_by_frame(frames, weight.shape[2]))


def upsample_convolve(extended: Tensor, weight: Tensor, bias: Tensor, temporal: bool) -> Tensor:
    """Nearest-neighbour up-sampling followed by the convolution, without ever making the large picture that goes in between.

    Args:
        extended: ``(B, C_in, T+e, H, W)`` float32, not up-sampled, behind the ``e`` frames before it: ``k - 1``, or 1 if ``temporal``.
        weight: ``(C_out, C_in, k, 3, 3)``, ``k`` 1 or 3, and 3 if ``temporal``.
        bias: ``(C_out,)``.
        temporal: Whether frames are doubled, too. The outputs are then those of the causal convolution over doubled frames that belong to
            the inputs ``1 .. T`` of ``extended``: each gives the output that ends with its first copy, and the one that ends with both.
            Where a video starts with a single frame, put a zero frame in front and drop the first output.

    Returns:
        ``(B, C_out, T or 2T, 2H, 2W)``, channels last.
    """
    frames = extended.shape[2] - (1 if temporal else weight.shape[2] - 1)
    parts = [(DOUBLED_CAUSAL, 0, frames)] if temporal else _frame_by_frame(frames, weight.shape[2])
    return _batched(extended, weight, bias, DOUBLED, parts)


def _frame_by_frame(frames: int, taps: int) -> list[tuple[Scheme, int, int]]:
    """How to cover ``frames`` outputs: schemes with their first input and number of tiles."""
    if taps == 1:
        return [(PER_FRAME, 0, frames)]
    fours, rest = divmod(frames, 4)
    return [part for part in ((ONE, 0, rest), (FOUR, rest, fours)) if part[2]]


def _batched(extended: Tensor, weight: Tensor, bias: Tensor, space: Scheme, parts: Sequence[tuple[Scheme, int, int]]) -> Tensor:
    videos = extended.contiguous(memory_format=torch.channels_last_3d).permute(0, 2, 3, 4, 1)
    tiles = [-(-side // space.step) for side in extended.shape[3:]]
    frames = [time.outputs * count for time, _, count in parts]
    result = extended.new_empty(len(videos), sum(frames), *(space.outputs * count for count in tiles), len(weight))
    scratch = _scratch.get() or Scratch()
    for (time, first, _), targets in zip(parts, result.split(frames, dim=1), strict=True):
        layer = _Layer(time, space, weight, bias, scratch)
        for video, target in zip(videos, targets, strict=True):
            layer.run(video[first:], target)
    height, width = (side * space.outputs // space.step for side in extended.shape[3:])
    return result[:, :, :height, :width].permute(0, 4, 1, 2, 3).contiguous(memory_format=torch.channels_last_3d)


class _Layer:
    """A convolution with one scheme in time and one in space. Axes are frames, rows, columns, channels; products come in front."""

    def __init__(self, time: Scheme, space: Scheme, weight: Tensor, bias: Tensor, scratch: Scratch) -> None:
        self.time, self.space, self.bias, self.scratch = time, space, bias, scratch
        self.kernels = self._transform(weight)

    def _transform(self, weight: Tensor) -> Tensor:
        """The kernel in all positions of a tile, ``(rows, columns * times, C_in, C_out)``."""
        space, time = (torch.tensor(scheme.kernel, dtype=torch.float64) for scheme in (self.space, self.time))
        positions = torch.kron(torch.kron(space, space), time).view(-1, 3, 3, time.shape[1])
        positions = positions.permute(0, 3, 1, 2).flatten(1).to(weight.dtype)  # columns in the order of the weight's axes
        kernels = self.scratch.take("kernels", len(positions), weight.shape[:2].numel())
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
        """Tiles from row ``top`` of the picture on, to ``out`` ``(times, outputs, rows, outputs, width, C_out)``."""
        times, _, rows, _, width, _ = out.shape
        side = self.space.outputs
        bands = self._spread("bands", self._padded(frames, top, times, rows, columns), 2, rows)
        wide = self.scratch.take("wide", *bands.shape[:4], columns, side, len(self.bias))
        for kernels, band, gathered in zip(self.kernels, bands, wide, strict=True):
            factors = self._spread("factors", band, 3, columns)
            products = self.scratch.take("products", *factors.shape[:5], len(self.bias))
            flat = factors.view(len(kernels), -1, factors.shape[-1])
            torch.bmm(flat, kernels, out=products.view(len(kernels), -1, len(self.bias)))
            self.space.gather(products, gathered.unbind(4))
        high = self.scratch.take("high", *wide.shape[1:4], side, width, len(self.bias))
        self.space.gather(wide.flatten(4, 5), high.unbind(3))
        self.time.gather(high, out.unbind(1))
        out += self.bias

    def _padded(self, frames: Tensor, top: int, times: int, rows: int, columns: int) -> Tensor:
        """The factors along time, ``(products, times, height, width, C_in)``, with zeros around the picture."""
        _, picture_height, picture_width, channels = frames.shape
        height, width = ((count - 1) * self.space.step + self.space.inputs for count in (rows, columns))
        above, below = max(0, -top), min(height, picture_height - top)
        padded = self.scratch.take("padded", len(self.time.kernel), times, height, width, channels)
        for border in (padded[:, :, :above], padded[:, :, below:], padded[:, :, :, :1], padded[:, :, :, picture_width + 1 :]):
            border.zero_()
        values = _shifted(frames[:, top + above : top + below], self.time, 0, times)
        self.time.spread(values, padded[:, :, above:below, 1 : picture_width + 1])
        return padded

    def _spread(self, name: str, values: Tensor, axis: int, tiles: int) -> Tensor:
        """Factors along a spatial axis, the products' axis in front."""
        shifted = _shifted(values, self.space, axis, tiles)
        out = self.scratch.take(name, len(self.space.kernel), *shifted[0].shape)
        self.space.spread(shifted, out)
        return out


def _shifted(values: Tensor, scheme: Scheme, axis: int, tiles: int) -> list[Tensor]:
    """What every tile reads first, second and so on, along one axis."""
    before = (slice(None),) * axis
    return [values[(*before, slice(k, k + (tiles - 1) * scheme.step + 1, scheme.step))] for k in range(scheme.inputs)]
