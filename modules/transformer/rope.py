"""Rotary position embeddings: multi-scale temporal RoPE (paper 4.2, Eq. 7) and plain RoPE for comparison (paper Table 4)."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Rope(ABC):
    """Token positions, on one or several axes, and their rotary factors, computed on demand without a table.

    Args:
        sections: Number of rotated pairs of a head for each axis.
        base: Base of the geometric frequencies.
    """

    def __init__(self, sections: tuple[int, ...], base: float) -> None:
        self.sections, self.base = sections, base

    @abstractmethod
    def positions(self, coordinates: Tensor, prompt_length: int) -> Tensor:
        """Return positions ``(N, axes)`` of a sequence's coordinates ``(N, 4)``; its first ``prompt_length`` tokens are the condition."""

    @abstractmethod
    def period(self, frame_tokens: int) -> tuple[int, ...]:
        """Return the offset, on every axis, between a token and the same token one frame earlier, for frames of ``frame_tokens`` tokens."""

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines ``(N, head_dim / 2)``, float32, for positions ``(N, axes)`` on the CPU."""
        # Angles in float64: a stream has no last frame, and float32 is too imprecise after about 100,000 frames.
        angles = [positions[:, axis, None] * self._frequencies(pairs) for axis, pairs in enumerate(self.sections)]
        angle = torch.cat(angles, dim=-1)
        return angle.cos().float(), angle.sin().float()

    def _frequencies(self, pairs: int) -> Tensor:
        return self.base ** -(torch.arange(pairs, dtype=torch.float64) / pairs)


class MultiScaleTemporalRope(Rope):
    """RoPE of the paper: a token's position is time, row and column, each of which rotates its own section of the head.

    Args:
        head_dim: Width of an attention head (given by the transformer).
        sections: Fractions of the rotated pairs for time, rows and columns (our decision; the paper gives no values).
        base: Base of the geometric frequencies.

    Raises:
        ValueError: If the sections do not add up to 1, or the head width is odd or too small for one pair per axis.
    """

    def __init__(self, head_dim: int, sections: tuple[float, float, float] = (0.25, 0.375, 0.375), base: float = 10000.0) -> None:
        if abs(sum(sections) - 1.0) > 1e-6:
            raise ValueError(
                f"the sections of time, rows and columns must add up to 1, got {' + '.join(map(str, sections))} = {sum(sections)}"
            )
        pairs = head_dim // 2
        rows, columns = int(pairs * sections[1]), int(pairs * sections[2])
        sections = (pairs - rows - columns, rows, columns)
        if head_dim % 2 or min(sections) < 1:
            raise ValueError(f"head width {head_dim} cannot be split into rotary pairs for time, rows and columns: got {sections}")
        super().__init__(sections, base)

    def positions(self, coordinates: Tensor, prompt_length: int) -> Tensor:
        return torch.cat([prompt_positions(prompt_length, coordinates.device), token_positions(coordinates[prompt_length:], prompt_length)])

    def period(self, frame_tokens: int) -> tuple[int, ...]:
        return (1, 0, 0)


class PlainRope(Rope):
    """Baseline without time, rows and columns: a token's position is its index in the sequence, as in LLaMA (our decision).

    Args:
        head_dim: Width of an attention head (given by the transformer).
        base: Base of the geometric frequencies.

    Raises:
        ValueError: If the head width is odd.
    """

    def __init__(self, head_dim: int, base: float = 10000.0) -> None:
        if head_dim % 2:
            raise ValueError(f"head width {head_dim} cannot be split into rotary pairs")
        super().__init__((head_dim // 2,), base)

    def positions(self, coordinates: Tensor, prompt_length: int) -> Tensor:
        return torch.arange(len(coordinates), device=coordinates.device)[:, None]

    def period(self, frame_tokens: int) -> tuple[int, ...]:
        return (frame_tokens,)


def token_positions(coordinates: Tensor, prompt_length: int) -> Tensor:
    """Return the positions of video tokens (paper Eq. 7): ``(t + P, row + P, column + P)`` with ``P`` condition tokens before the video.

    Rows and columns are the indices on each scale's own grid and repeat in every frame.

    Args:
        coordinates: ``(L, 4)`` frame, scale, row, column.
        prompt_length: Number of condition tokens ``P``.

    Returns:
        ``(L, 3)``.
    """
    return coordinates[:, [0, 2, 3]] + prompt_length


def prompt_positions(prompt_length: int, device: torch.device) -> Tensor:
    """Return the positions ``(P, 3)`` of the condition tokens: token ``i`` is at ``(i, i, i)``."""
    return torch.arange(prompt_length, device=device)[:, None].expand(-1, 3)


def rotate(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotate the pairs ``(x_i, x_{i + D/2})`` of ``(B, heads, L, D)`` by the given angles, in float32."""
    first, second = heads.float().chunk(2, dim=-1)
    turned = torch.cat([first * cosines - second * sines, first * sines + second * cosines], dim=-1)
    return turned.type_as(heads)
