"""All about the tokens of a sequence that does not depend on what is in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from modules.transformer.masks import block_of_tokens, visible_blocks
from modules.transformer.rope import Rope
from modules.transformer.sequence import TokenSequence


class Plan(NamedTuple):
    """Tensors that every pass over a sequence needs.

    Attributes:
        places: ``(N, 4)`` frame, scale, row, column.
        predicted: ``(L,)`` where the predicted tokens stand.
        block: ``(N,)`` number of every token's block.
        visible: ``(S, S)`` bool, which block may attend to which.
        cosines: ``(N, head_dim / 2)`` rotary factors.
        sines: As ``cosines``.
    """

    places: Tensor
    predicted: Tensor
    block: Tensor
    visible: Tensor
    cosines: Tensor
    sines: Tensor


def make_plan(sequence: TokenSequence, window: int | None, rope: Rope, device: torch.device) -> Plan:
    """The plan of a sequence, for frames that see ``window`` past frames (all if None)."""
    places = sequence.places()
    cosines, sines = rope(rope.positions(places, sequence.prompt_length).to(device))
    return Plan(
        places=places.to(device),
        predicted=sequence.predicted().to(device),
        block=block_of_tokens(sequence).to(device),
        visible=visible_blocks(sequence, window).to(device),
        cosines=cosines,
        sines=sines,
    )
