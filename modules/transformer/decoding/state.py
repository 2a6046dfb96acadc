"""State of one decoding run: an unlimited number of frames in a key/value cache of fixed size."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modules.transformer.decoding.buffers import DecodingBuffers
from modules.transformer.rope import Rope, rotate
from modules.transformer.sequence import TokenSequence


class Decoding:
    """KV cache, current frame and visible window of one decoding run.

    The cache holds the condition, the visible past frames and the current frame, in this order. The latest frame overwrites the one that
    leaves the window, so no mask is needed. The order of past frames in the cache does not matter because keys carry their positions.

    Rotary scores depend on position differences only. Beyond the trained length the positions of the frames keep growing, and the
    condition, with the first frame if it is a sink, is rotated forward instead (our decision; the paper re-encodes a window).

    Args:
        sequence: Token sequence of the longest trained video; decoding may continue beyond it.
        rope: Rotary position embedding.
        past: Number of past frames that a frame attends to.
        sink: Keep the first frame visible permanently, as one of the past frames.
        buffers: Tensors for the condition, the past frames and the current frame.

    Raises:
        ValueError: If a sink is requested with fewer than two past frames.
    """

    def __init__(self, sequence: TokenSequence, rope: Rope, past: int, sink: bool, buffers: DecodingBuffers) -> None:
        if sink and past < 2:
            raise ValueError(f"a sink needs at least 2 visible past frames, got {past}")
        self.sequence, self.rope, self.past, self.sink, self.buffers = sequence, rope, past, sink, buffers
        self.cache = buffers.cache
        buffers.assign(self)
        self.frame = self._past_frames = 0
        two_frames = replace(sequence, layout=replace(sequence.layout, frames=2))
        prompt, self._one_frame, _ = rope.positions(two_frames.coordinates(), sequence.prompt_length).split(
            [sequence.prompt_length, sequence.frame_tokens, sequence.layout.pyramid.tokens]
        )
        self._period = torch.tensor(rope.period(sequence.frame_tokens))
        self._anchored = self.cache.keys[..., :0, :]
        buffers.set_rope(0, rope(torch.cat([prompt, self._one_frame])))

    def load_condition(self) -> None:
        """Replace the cached keys and values of the condition, for all following frames."""
        length, prompt = self.sequence.prompt_length, self.buffers.prompt
        self.cache.values[..., :length, :] = prompt.values
        self.cache.keys[..., :length, :] = prompt.keys
        self.cache.length = max(self.cache.length, length)
        self._anchored = torch.cat([prompt.keys, self._anchored[..., length:, :]], dim=-2)
        self._shift_anchored()

    def drop_scales(self) -> None:
        """Drop the scales of the current frame; later frames attend to its history block only."""
        self.cache.truncate(self._end_of_past())

    def next_frame(self) -> None:
        """Append the current frame to the past ones and advance to the next frame."""
        if self.frame == 0 and self.sink:
            self._anchored = self.cache.keys[..., : self._end_of_past() + self.sequence.past_tokens, :].clone()
        self._past_frames += 1
        if self._past_frames > self.past:
            self._evict_oldest()
        self.frame += 1
        self.buffers.set_rope(self.sequence.prompt_length, self.rope(self._one_frame + self.frame * self._period))
        self._shift_anchored()

    def _evict_oldest(self) -> None:
        """Overwrite the oldest past frame, the sink excepted, with the latest one."""
        self._past_frames = self.past
        latest, slots = self._end_of_past(), self.past - self.sink
        if slots:
            slot = self.sink + (self.frame - self.past) % slots
            self.cache.move(latest, self.sequence.prompt_length + slot * self.sequence.past_tokens, self.sequence.past_tokens)
        self.cache.truncate(latest)

    def _shift_anchored(self) -> None:
        """Rotate the keys of condition and sink so that their distance to the current frame stays within the trained range."""
        beyond = self.frame - (self.sequence.layout.frames - 1)
        if beyond > 0:
            self.cache.keys[..., : self._anchored.shape[-2], :] = rotate(self._anchored, *self._factors(beyond * self._period[None]))

    def _end_of_past(self) -> int:
        return self.sequence.prompt_length + self._past_frames * self.sequence.past_tokens

    def _factors(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cosines, sines = self.rope(positions)
        return cosines.to(self.cache.keys.device), sines.to(self.cache.keys.device)
