"""Attention masks: block-causal over frames and scales, a window of past frames (paper 4.2).

Visibility is defined between blocks (all tokens of a frame's scale): masks are small tables over blocks, indexed by each token's block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.transformer.sequence import TokenSequence

MAX_DENSE_TOKENS = 8192  # maximum tokens of a dense mask


def block_of_tokens(sequence: TokenSequence) -> Tensor:
    """Return ``(N,)`` int64: the block index of every token."""
    lengths = torch.tensor(list(sequence.blocks().values()))
    return torch.arange(len(lengths)).repeat_interleave(lengths)


def visible_blocks(sequence: TokenSequence, window: int | None) -> Tensor:
    """Return the mask over blocks: a block sees the condition, the past frames in its window, coarser scales of its frame and itself.

    Of a past frame it sees all scales, or only the history block, which does not see the scales of its own frame.

    Args:
        sequence: The blocks.
        window: Number of past frames that a frame sees; all if None.

    Returns:
        ``(S, S)`` bool over blocks, True where the row may attend to the column. The condition sees itself only.
    """
    frame, scale = torch.tensor(list(sequence.blocks())).unbind(dim=1)
    history = scale == sequence.history_scale
    past = (frame[:, None] > frame[None, :]) & (history | (sequence.history == "all_scales"))[None, :]
    if window is not None:
        past &= frame[:, None] - frame[None, :] <= window
    own_frame = (frame[:, None] == frame[None, :]) & (scale[:, None] >= scale[None, :]) & (history[:, None] == history[None, :])
    return past | own_frame | (frame == -1)[None, :]


def frame_of_blocks(sequence: TokenSequence) -> Tensor:
    """Return ``(S,)`` int64: the frame of every block, -1 for the condition."""
    return torch.tensor(list(sequence.blocks()))[:, 0]


def dense(visible: Tensor, block: Tensor) -> Tensor:
    """Expand a mask over blocks to a mask over tokens.

    Args:
        visible: ``(S, S)`` or ``(B, S, S)`` bool.
        block: ``(N,)`` block of every token.

    Returns:
        ``(N, N)`` or ``(B, 1, N, N)`` bool.
    """
    mask = visible[..., block, :][..., block]
    return mask[:, None] if mask.ndim == 3 else mask
