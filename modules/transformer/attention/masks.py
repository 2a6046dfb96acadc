"""Who may look at whom: block-causal over frames and scales, a window, and the random frame mask (paper 4.2, Eq. 9).

Visibility is a matter of blocks (all tokens of a frame's scale), so the rules are small tables over blocks; tokens look theirs up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modules.transformer.sequence import TokenSequence

MAX_DENSE_TOKENS = 8192  # tokens of a dense mask


def block_of_tokens(sequence: TokenSequence) -> Tensor:
    """``(N,)`` int64: the number of every token's block."""
    lengths = torch.tensor(list(sequence.blocks().values()))
    return torch.arange(len(lengths)).repeat_interleave(lengths)


def visible_blocks(sequence: TokenSequence, window: int | None) -> Tensor:
    """The rule: a block sees the condition, what is remembered of the past frames of its window, coarser scales of its frame and itself.

    Remembered are all scales, or the history block alone, which in turn does not see the scales of its own frame.

    Args:
        sequence: The blocks.
        window: How many past frames a frame sees; all if None.

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
    """``(S,)`` int64: every block's frame, -1 for the condition."""
    return torch.tensor(list(sequence.blocks()))[:, 0]


def hide_frames(visible: Tensor, kept: Tensor, frame: Tensor) -> Tensor:
    """Take from every clip the past frames that its random frame mask hides (paper Eq. 9).

    Args:
        visible: ``(S, S)`` bool of :func:`visible_blocks`.
        kept: ``(B, t, t)`` bool, whether a query frame (row) may see a past frame (column).
        frame: ``(S,)`` frame of every block.

    Returns:
        ``(B, S, S)`` bool. Condition and own frame always stay visible.
    """
    always = (frame[:, None] == frame[None, :]) | (frame == -1)[None, :] | (frame == -1)[:, None]
    index = frame.clamp(min=0)
    return visible & (kept[:, index][:, :, index] | always)


def dense(visible: Tensor, block: Tensor) -> Tensor:
    """From blocks to tokens.

    Args:
        visible: ``(S, S)`` or ``(B, S, S)`` bool.
        block: ``(N,)`` block of every token.

    Returns:
        ``(N, N)`` or ``(B, 1, N, N)`` bool.
    """
    mask = visible[..., block, :][..., block]
    return mask[:, None] if mask.ndim == 3 else mask


class RandomFrameMask:
    """Hides past frames from a frame at random in training, so that the model does not lean on a history that will drift (paper Eq. 9).

    Args:
        probability: Chance that a past frame is hidden from a query frame, drawn per clip and per query frame (0 to 1).

    Raises:
        ValueError: If the probability is outside [0, 1].
    """

    def __init__(self, probability: float = 0.2) -> None:
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"the random frame mask's probability must be within 0 and 1, got {probability}")
        self.probability = probability

    def draw(self, clips: int, frames: int, device: torch.device) -> Tensor:
        """``(clips, frames, frames)`` bool: True where the row's frame may see the column's."""
        return torch.rand(clips, frames, frames, device=device) >= self.probability
