"""Weights of the loss by scale: how much the tokens of coarse and fine scales count."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from modules.geometry import Layout

Rule = Literal["flat", "square_root", "inverse"]

# A token of a scale with n tokens weighs n to the power of minus this.
POWERS: dict[str, float] = {"flat": 0.0, "square_root": 0.5, "inverse": 1.0}


class ScaleWeights:
    """Weight of every token in the loss by the size of its scale, normalised to a mean of 1 over the tokens of a clip.

    A frame's last scale has most of its tokens, so with equal weights the loss is mostly that of the finest details. The mean of 1 keeps
    the loss comparable and the learning rate's meaning.

    Args:
        rule: "flat": every token weighs the same (VAR, and the paper, which names no weights). "square_root": a token weighs one over the
            square root of its scale's number of tokens, so a scale counts as the square root of its size (Infinity's published recipe).
            "inverse": one over the number, so every scale counts the same.

    Raises:
        ValueError: If there is no such rule.
    """

    def __init__(self, rule: Rule = "flat") -> None:
        if rule not in POWERS:
            raise ValueError(f"the loss is weighted by scale {', '.join(POWERS)}, not {rule!r}")
        self.rule = rule

    def of_tokens(self, layout: Layout, device: torch.device | None = None) -> Tensor:
        """Weights ``(L,)`` float32 of a clip's tokens in the order of ``layout``; their mean is 1. Cached."""
        return _weights(layout, POWERS[self.rule], device)


@lru_cache(32)
def _weights(layout: Layout, power: float, device: torch.device | None) -> Tensor:
    areas = torch.tensor(layout.pyramid.areas, dtype=torch.float64)
    weights = (areas**-power).repeat_interleave(areas.long())
    return (weights / weights.mean()).float().repeat(layout.frames).to(device)
