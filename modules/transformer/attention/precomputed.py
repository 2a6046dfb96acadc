"""Precomputed mask, index and RoPE tensors of a token sequence; independent of the token values."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from modules.transformer.attention.attention import Dense
from modules.transformer.attention.flex import Flex, make_flex, not_compiled
from modules.transformer.attention.masks import MAX_DENSE_TOKENS, block_of_tokens, dense, frame_of_blocks, visible_blocks
from modules.transformer.rope import Rope
from modules.transformer.sequence import TokenSequence

# Cached layouts per function: images and clips of all published aspect ratios are 31. A dense mask takes at most 64 MiB, since larger ones
# are not cached; the other tensors take far less.
MAX_LAYOUTS = 32


class SequenceTensors(NamedTuple):
    """Tensors shared by all passes over a sequence.

    Attributes:
        coordinates: ``(N, 4)`` frame, scale, row, column.
        predicted: ``(L,)`` indices of the predicted tokens in the sequence.
        block: ``(N,)`` block index of every token.
        frame: ``(S,)`` frame of every block, -1 for the condition.
        visible: ``(S, S)`` bool, True where the block of the row may attend to that of the column.
        cosines: ``(N, head_dim / 2)`` rotary factors.
        sines: As ``cosines``.
    """

    coordinates: Tensor
    predicted: Tensor
    block: Tensor
    frame: Tensor
    visible: Tensor
    cosines: Tensor
    sines: Tensor


# The functions below leave inference mode, since training reuses what validation has cached. They are excluded from compilation, which
# would otherwise trace them into the graph and recompute their results in every step.
@not_compiled
def make_sequence_tensors(sequence: TokenSequence, window: int | None, rope: Rope, device: torch.device) -> SequenceTensors:
    """Return the tensors of a sequence whose frames attend to ``window`` past frames (None: all); cached."""
    return _sequence_tensors(sequence, window, rope, device)


@not_compiled
def dense_attention(sequence: TokenSequence, window: int | None, device: torch.device) -> Dense:
    """Return attention under the dense mask of a sequence, without random frame masks; cached up to ``MAX_DENSE_TOKENS`` tokens."""
    make = _dense_attention if sequence.tokens <= MAX_DENSE_TOKENS else _dense_attention.__wrapped__
    return make(sequence, window, device)


@not_compiled
def flex_attention(sequence: TokenSequence, window: int | None, device: torch.device) -> Flex:
    """Return FlexAttention over a sequence, without random frame masks; cached."""
    return _flex_attention(sequence, window, device)


@lru_cache(MAX_LAYOUTS)
def _sequence_tensors(sequence: TokenSequence, window: int | None, rope: Rope, device: torch.device) -> SequenceTensors:
    with torch.inference_mode(False):
        coordinates = sequence.coordinates()
        cosines, sines = rope(rope.positions(coordinates, sequence.prompt_length))
        return SequenceTensors(
            coordinates=coordinates.to(device),
            predicted=sequence.predicted().to(device),
            block=block_of_tokens(sequence).to(device),
            frame=frame_of_blocks(sequence).to(device),
            visible=visible_blocks(sequence, window).to(device),
            cosines=cosines.to(device),
            sines=sines.to(device),
        )


@lru_cache(MAX_LAYOUTS)
def _dense_attention(sequence: TokenSequence, window: int | None, device: torch.device) -> Dense:
    with torch.inference_mode(False):
        return Dense(dense(visible_blocks(sequence, window).to(device), block_of_tokens(sequence).to(device)))


@lru_cache(MAX_LAYOUTS)
def _flex_attention(sequence: TokenSequence, window: int | None, device: torch.device) -> Flex:
    with torch.inference_mode(False):
        return make_flex(visible_blocks(sequence, window).to(device), block_of_tokens(sequence).to(device))
