"""Random frame mask: past frames hidden at random in training (paper 4.2, Eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor


class RandomFrameMask:
    """Random masking of past frames in training, so that the model relies less on a history that will drift (paper Eq. 9).

    Args:
        probability: Probability that a past frame is hidden from a query frame, drawn per clip and query frame (0 to 1).

    Raises:
        ValueError: If the probability is outside [0, 1].
    """

    def __init__(self, probability: float = 0.2) -> None:
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"the random frame mask's probability must be within 0 and 1, got {probability}")
        self.probability = probability

    def draw(self, clips: int, frames: int, device: torch.device) -> Tensor:
        """Return ``(clips, frames, frames)`` bool: True where the frame of the row may see the frame of the column."""
        return torch.rand(clips, frames, frames, device=device) >= self.probability


def hide_frames(visible: Tensor, kept: Tensor, frame: Tensor) -> Tensor:
    """Remove the past frames that each clip's random frame mask hides from a mask over blocks (paper Eq. 9).

    Args:
        visible: ``(S, S)`` bool of :func:`visible_blocks`.
        kept: ``(B, t, t)`` bool, True where a query frame (row) may see a past frame (column).
        frame: ``(S,)`` frame of every block.

    Returns:
        ``(B, S, S)`` bool. The condition and a block's own frame always stay visible.
    """
    always = (frame[:, None] == frame[None, :]) | (frame == -1)[None, :] | (frame == -1)[:, None]
    index = frame.clamp(min=0)
    return visible & (kept[:, index][:, :, index] | always)
