"""A sampling run inside the transformer: frame after frame, for as long as the caller likes, in a cache of fixed size."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modules.transformer.decoding.buffers import Workspace
from modules.transformer.rope import Rope, rotate
from modules.transformer.sequence import TokenSequence


class Decoding:
    """What was computed once, what has been decoded so far, and what of it is still seen.

    The cache holds the condition, the past frames that may be seen, and the frame that is being decoded, in this order; a frame that
    slides out of sight leaves its place to the latest one, which keeps the cache free of masks. Order within the cache does not matter,
    as keys carry their positions.

    Rotary scores depend on differences of positions only. So when a run grows longer than the videos of training, not the many frames
    move back to the positions of training but the condition moves along with them, and with it the first frame if that is kept as a sink
    (our decision; the paper encodes a window again instead).

    Args:
        sequence: The longest video of training; the run may go on beyond it.
        rope: Positions of tokens.
        past: How many past frames a frame sees.
        sink: Whether the first frame is one of them for ever.
        space: The tensors of the run, with room for the condition, the past and one frame.

    Raises:
        ValueError: If the sink would leave no room for the frame before.
    """

    def __init__(self, sequence: TokenSequence, rope: Rope, past: int, sink: bool, space: Workspace) -> None:
        if sink and past < 2:
            raise ValueError(f"a first frame that stays needs at least 2 visible past frames, got {past}")
        self.sequence, self.rope, self.past, self.sink, self.space = sequence, rope, past, sink, space
        self.cache = space.cache
        space.use(self)
        self.frame = self._held = 0
        two_frames = replace(sequence, layout=replace(sequence.layout, frames=2))
        prompt, self._one_frame, _ = rope.positions(two_frames.places(), sequence.prompt_length).split(
            [sequence.prompt_length, sequence.frame_tokens, sequence.layout.pyramid.tokens]
        )
        self._period = torch.tensor(rope.period(sequence.frame_tokens))
        self._anchored = self.cache.keys[..., :0, :]
        space.turn(0, rope(torch.cat([prompt, self._one_frame])))

    def take_prompt(self) -> None:
        """Put the keys and values of a new condition where the run has its condition, for all frames from now on."""
        length, prompt = self.sequence.prompt_length, self.space.prompt
        self.cache.values[..., :length, :] = prompt.values
        self.cache.keys[..., :length, :] = prompt.keys
        self.cache.length = max(self.cache.length, length)
        self._anchored = torch.cat([prompt.keys, self._anchored[..., length:, :]], dim=-2)
        self._move_along()

    def drop_scales(self) -> None:
        """Forget the scales of the current frame, which later frames will see by its history block only."""
        self.cache.truncate(self._end_of_past())

    def next_frame(self) -> None:
        """The current frame is done and becomes the latest of the past ones."""
        if self.frame == 0 and self.sink:
            self._anchored = self.cache.keys[..., : self._end_of_past() + self.sequence.past_tokens, :].clone()
        self._held += 1
        if self._held > self.past:
            self._forget_oldest()
        self.frame += 1
        self.space.turn(self.sequence.prompt_length, self.rope(self._one_frame + self.frame * self._period))
        self._move_along()

    def _forget_oldest(self) -> None:
        """Put the latest frame in the place of the oldest one."""
        self._held = self.past
        latest, slots = self._end_of_past(), self.past - self.sink
        if slots:
            slot = self.sink + (self.frame - self.past) % slots
            self.cache.move(latest, self.sequence.prompt_length + slot * self.sequence.past_tokens, self.sequence.past_tokens)
        self.cache.truncate(latest)

    def _move_along(self) -> None:
        """Turn the keys of what stays to where it stood, seen from the last frame of training."""
        beyond = self.frame - (self.sequence.layout.frames - 1)
        if beyond > 0:
            self.cache.keys[..., : self._anchored.shape[-2], :] = rotate(self._anchored, *self._factors(beyond * self._period[None]))

    def _end_of_past(self) -> int:
        return self.sequence.prompt_length + self._held * self.sequence.past_tokens

    def _factors(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cosines, sines = self.rope(positions)
        return cosines.to(self.cache.keys.device), sines.to(self.cache.keys.device)
