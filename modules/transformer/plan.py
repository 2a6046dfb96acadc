"""All about the tokens of a sequence that does not depend on what is in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from modules.transformer.masks import block_of_tokens, dense, frame_of_blocks, visible_blocks
from modules.transformer.rope import Rope
from modules.transformer.sequence import TokenSequence

Function = TypeVar("Function", bound=Callable)


class Plan(NamedTuple):
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


def outside_graphs(function: Function) -> Function:
    """A function that compilation does not look into: traced, it would be part of the graph and computed at every step."""
    return cast(Function, torch.compiler.disable(function))


# Kept for the layouts in turn: training, validation, pictures and clips mixed. A dense mask can be large, hence few of them.
# Both are made outside of inference mode, since what validation makes first is used by training too.
@outside_graphs
@lru_cache(maxsize=16)
def make_plan(sequence: TokenSequence, window: int | None, rope: Rope, device: torch.device) -> Plan:
    """The plan of a sequence, for frames that see ``window`` past frames (all if None); made once."""
    with torch.inference_mode(False):
        places = sequence.places()
        cosines, sines = rope(rope.positions(places, sequence.prompt_length).to(device))
        return Plan(
            places=places.to(device),
            predicted=sequence.predicted().to(device),
            block=block_of_tokens(sequence).to(device),
            frame=frame_of_blocks(sequence).to(device),
            visible=visible_blocks(sequence, window).to(device),
            cosines=cosines,
            sines=sines,
        )


@outside_graphs
@lru_cache(maxsize=4)
def make_mask(sequence: TokenSequence, window: int | None, device: torch.device) -> Tensor:
    """The dense mask ``(N, N)`` of a sequence when no frame is hidden at random; made once."""
    with torch.inference_mode(False):
        return dense(visible_blocks(sequence, window), block_of_tokens(sequence)).to(device)
