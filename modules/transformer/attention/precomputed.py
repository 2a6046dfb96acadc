"""All about the tokens of a sequence that does not depend on what is in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.transformer.attention.attention import Dense
from modules.transformer.attention.caching import lru_cache_by_bytes, outside_graphs
from modules.transformer.attention.flex import Flex, make_flex
from modules.transformer.attention.masks import MAX_DENSE_TOKENS, block_of_tokens, dense, frame_of_blocks, visible_blocks
from modules.transformer.rope import Rope
from modules.transformer.sequence import TokenSequence


class SequenceTensors(NamedTuple):
    """Tensors that every pass over a sequence needs.

    Attributes:
        places: ``(N, 4)`` frame, scale, row, column.
        predicted: ``(L,)`` where the predicted tokens stand.
        block: ``(N,)`` number of every token's block.
        frame: ``(S,)`` every block's frame, -1 for the condition.
        visible: ``(S, S)`` bool, which block may attend to which.
        cosines: ``(N, head_dim / 2)`` rotary factors.
        sines: As ``cosines``.
    """

    places: Tensor
    predicted: Tensor
    block: Tensor
    frame: Tensor
    visible: Tensor
    cosines: Tensor
    sines: Tensor


# Kept for the layouts in turn: training, validation, and pictures and clips of all aspect ratios mixed, which are 31 with the published
# sizes. By bytes, of which a layout of the largest dense mask takes as much as dozens of small ones: eight of the largest, 512 MiB.
MAX_BYTES = 8 * MAX_DENSE_TOKENS**2


# All are made outside of inference mode, since what validation makes first is used by training too.
@outside_graphs
@lru_cache_by_bytes(MAX_BYTES)
def make_sequence_tensors(sequence: TokenSequence, window: int | None, rope: Rope, device: torch.device) -> SequenceTensors:
    """The plan of a sequence, for frames that see ``window`` past frames (all if None); made once."""
    with torch.inference_mode(False):
        places = sequence.places()
        cosines, sines = rope(rope.positions(places, sequence.prompt_length))
        return SequenceTensors(
            places=places.to(device),
            predicted=sequence.predicted().to(device),
            block=block_of_tokens(sequence).to(device),
            frame=frame_of_blocks(sequence).to(device),
            visible=visible_blocks(sequence, window).to(device),
            cosines=cosines.to(device),
            sines=sines.to(device),
        )


@outside_graphs
@lru_cache_by_bytes(MAX_BYTES)
def dense_attention(sequence: TokenSequence, window: int | None, device: torch.device) -> Dense:
    """Attention over all of a sequence under a dense mask when no frame is hidden at random; made once."""
    with torch.inference_mode(False):
        return Dense(dense(visible_blocks(sequence, window), block_of_tokens(sequence)).to(device))


@outside_graphs
@lru_cache_by_bytes(MAX_BYTES)
def flex_attention(sequence: TokenSequence, window: int | None, device: torch.device) -> Flex:
    """Attention over all of a sequence without a dense mask when no frame is hidden at random; made once."""
    with torch.inference_mode(False):
        return make_flex(visible_blocks(sequence, window).to(device), block_of_tokens(sequence).to(device))
