"""Who may look at whom: block-causal over frames and scales, a window, and the random frame mask (paper 4.2, Eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor


def block_causal(places: Tensor, prompt_length: int, window: int | None) -> Tensor:
    """The training mask: a token sees the condition, the past frames of its window, coarser scales of its frame and its own block.

    Args:
        places: ``(L, 4)`` frame, scale, row, column of the video tokens.
        prompt_length: Number of condition tokens ``P`` before the video; they see one another only.
        window: How many past frames a frame sees; all if None.

    Returns:
        ``(P + L, P + L)`` bool, True where the row's token may attend to the column's.
    """
    frame, scale = _with_prompt(places, prompt_length)
    past = frame[:, None] > frame[None, :]
    if window is not None:
        past &= frame[:, None] - frame[None, :] <= window
    own_frame = (frame[:, None] == frame[None, :]) & (scale[:, None] >= scale[None, :])
    return past | own_frame | (frame == -1)[None, :]


def hide_frames(mask: Tensor, kept: Tensor, places: Tensor, prompt_length: int) -> Tensor:
    """Take from every clip the past frames that its random frame mask hides (paper Eq. 9).

    Args:
        mask: ``(P + L, P + L)`` bool of :func:`block_causal`.
        kept: ``(B, t, t)`` bool, whether a query frame (row) may see a past frame (column).
        places: ``(L, 4)`` of the video tokens.
        prompt_length: Number of condition tokens ``P``.

    Returns:
        ``(B, 1, P + L, P + L)`` bool. Condition and own frame always stay visible.
    """
    frame, _ = _with_prompt(places, prompt_length)
    always = (frame[:, None] == frame[None, :]) | (frame == -1)[None, :] | (frame == -1)[:, None]
    index = frame.clamp(min=0)
    visible = kept[:, index][:, :, index] | always
    return (visible & mask)[:, None]


def _with_prompt(places: Tensor, prompt_length: int) -> tuple[Tensor, Tensor]:
    """Frame and scale of every token, the condition's tokens at frame -1, scale 0."""
    prompt = places.new_zeros(prompt_length)
    return torch.cat([prompt - 1, places[:, 0]]), torch.cat([prompt, places[:, 1]])


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
