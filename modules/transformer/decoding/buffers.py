"""Decoding buffers at fixed addresses, so that a step can be recorded once and replayed.

A step reads its inputs, the weights and the buffers, and writes to the buffers. Two steps of the same kind and cache length differ only in
the values of these tensors. The cache size is fixed, so a run of any length has few such pairs: one per scale and number of past frames,
and one for the first block of the video.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

from modules.transformer.attention.attention import BlockContext, Dense
from modules.transformer.attention.kv_cache import KVCache
from modules.transformer.block import Modulation

# A decoding step: inputs of a fixed shape to outputs of a fixed shape.
Step = Callable[[Tensor], Tensor]

# Records a step for cheaper replay on inputs of the same shape; see modules.transformer.decoding.cuda_graphs.
Recorder = Callable[[Step, Tensor], Step]

# Buffers, with their recorded steps, that are kept for later runs of the same shape.
MAX_KEPT_BUFFERS = 4


class Steps:
    """Runs every step eagerly."""

    def __call__(self, kind: Hashable, step: Step, inputs: Tensor) -> Tensor:
        """Run a step. Steps of the same kind perform the same operations on the same tensors."""
        return step(inputs)


class RecordedSteps(Steps):
    """Records the first step of each kind and replays it for later ones."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._recordings: dict[Hashable, Step] = {}

    def __len__(self) -> int:
        return len(self._recordings)

    def __call__(self, kind: Hashable, step: Step, inputs: Tensor) -> Tensor:
        if kind not in self._recordings:
            self._recordings[kind] = self._record(step, inputs)
        return self._recordings[kind](inputs)


class DecodingBuffers:
    """Tensors of one decoding run; reusable after it.

    Args:
        cache: Keys and values of the condition, the past frames and the current frame.
        prompt: Keys and values of the condition alone.
        cosines: ``(n, head_dim / 2)`` rotary factors of the condition and one frame.
        modulation: Scales, shifts and gates of the norms; None without adaptive norms.
        steps: Runs or replays steps.
    """

    def __init__(self, cache: KVCache, prompt: KVCache, cosines: Tensor, modulation: Modulation | None, steps: Steps) -> None:
        self.cache, self.prompt, self.modulation, self.steps = cache, prompt, modulation, steps
        self.cosines, self.sines = cosines, torch.empty_like(cosines)
        self._user: Callable[[], object | None] = lambda: None

    @property
    def is_free(self) -> bool:
        """True once the run that used the buffers has been garbage-collected."""
        return self._user() is None

    def assign(self, run: object) -> None:
        """Empty the cache and assign the buffers to a run for the lifetime of that object."""
        self.cache.truncate(0)
        self._user = weakref.ref(run)

    def set_rope(self, first: int, factors: tuple[Tensor, Tensor]) -> None:
        """Set the rotary factors (cosines, sines), starting at row ``first``."""
        for buffer, new in zip((self.cosines, self.sines), factors, strict=True):
            buffer[first : first + len(new)] = new

    def set_modulation(self, modulation: Modulation | None) -> None:
        """Set the modulation of the norms by the condition."""
        for buffer, new in zip(self.modulation or (), modulation or (), strict=True):
            buffer.copy_(new)

    def block_context(self, tokens: slice, cache: KVCache) -> BlockContext:
        """Block inputs for tokens that attend to all of ``cache`` and are appended to it; ``tokens`` are their rotary rows."""
        modulation = self.modulation and self.modulation.blocks
        return BlockContext(self.cosines[tokens], self.sines[tokens], Dense(None), modulation, cache)


class BufferPool:
    """Provides decoding buffers: new ones, or for recorded steps the free ones of an earlier run of the same shape.

    Recordings hold the addresses of the weights, so the pool must be cleared when weights move. A copied or unpickled pool is empty.
    """

    def __init__(self) -> None:
        self._kept: dict[DecodingBuffers, Hashable] = {}

    def acquire(self, shape: Hashable, record: Recorder | None, make: Callable[[Steps], DecodingBuffers]) -> DecodingBuffers:
        """Return buffers that no live run uses.

        Args:
            shape: Key that runs must share to reuse each other's buffers.
            record: Recorder of steps, None to run them eagerly.
            make: Creates new buffers with the given steps.
        """
        # A later run outside inference mode must be able to write to these buffers.
        with torch.inference_mode(False), torch.no_grad():
            if record is None:
                return make(Steps())
            free = (buffers for buffers, its_shape in self._kept.items() if its_shape == shape and buffers.is_free)
            buffers = next(free, None) or make(RecordedSteps(record))
        self._kept = {**{kept: its_shape for kept, its_shape in self._kept.items() if kept is not buffers}, buffers: shape}
        for oldest in list(self._kept)[:-MAX_KEPT_BUFFERS]:
            del self._kept[oldest]
        return buffers

    def clear(self) -> None:
        """Drop all buffers and recorded steps."""
        self._kept = {}

    def __reduce__(self) -> tuple[type[BufferPool], tuple[()]]:
        return BufferPool, ()
