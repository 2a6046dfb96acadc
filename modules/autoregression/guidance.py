"""Temporal-spatial adaptive classifier-free guidance (paper section on inference)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guidance:
    """Guidance strength over a clip, given at four corners and interpolated linearly; 1 means no guidance.

    The paper's UCF-101 setting is ``(1, 5, 10, 10)``: the first scale's strength rises from 1 to 5 over the frames, and within each
    frame it rises further to 10. Its text-to-video setting is ``(5, 4, 4, 3)``: from 5 to 3 along time and scale together.

    Args:
        first_frame_first_scale: Strength at the first scale of the first frame.
        last_frame_first_scale: Strength at the first scale of the last frame.
        first_frame_last_scale: Strength at the last scale of the first frame.
        last_frame_last_scale: Strength at the last scale of the last frame.
    """

    first_frame_first_scale: float = 1.0
    last_frame_first_scale: float = 5.0
    first_frame_last_scale: float = 10.0
    last_frame_last_scale: float = 10.0

    def strength(self, frame: float, scale: float) -> float:
        """Return the strength at ``frame`` and ``scale``, given as positions in [0, 1] within the clip and the pyramid."""
        first = self.first_frame_first_scale + frame * (self.last_frame_first_scale - self.first_frame_first_scale)
        last = self.first_frame_last_scale + frame * (self.last_frame_last_scale - self.first_frame_last_scale)
        return first + scale * (last - first)


def position(index: int, count: int) -> float:
    """Return the position of ``index`` among ``count`` items in [0, 1]; 0 if there is only one."""
    return index / (count - 1) if count > 1 else 0.0
