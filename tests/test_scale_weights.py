"""Weights of the loss by scale."""

import pytest
import torch

from modules.autoregression import bit_loss
from modules.autoregression.scale_weights import ScaleWeights
from modules.geometry import Layout, Pyramid

LAYOUT = Layout(Pyramid.of(8, 8), frames=3)


def scale_totals(rule: str) -> list[float]:
    """Sum of the weights of every scale of the first frame."""
    weights = ScaleWeights(rule).of_tokens(LAYOUT)  # type: ignore[arg-type]
    return [float(weights[LAYOUT.block(0, scale)].sum()) for scale in range(LAYOUT.pyramid.scales)]


def test_every_rule_has_mean_one_and_its_own_proportions() -> None:
    areas = torch.tensor(LAYOUT.pyramid.areas, dtype=torch.float64)
    for rule, expected in (("flat", areas), ("square_root", areas.sqrt()), ("inverse", torch.ones_like(areas))):
        assert ScaleWeights(rule).of_tokens(LAYOUT).mean() == pytest.approx(1.0)
        totals = torch.tensor(scale_totals(rule), dtype=torch.float64)
        torch.testing.assert_close(totals / totals.sum(), expected / expected.sum(), rtol=1e-6, atol=0)


def test_all_frames_weigh_the_same() -> None:
    weights = ScaleWeights("inverse").of_tokens(LAYOUT).view(LAYOUT.frames, -1)
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_flat_weights_are_the_plain_loss_and_others_move_it_towards_coarse_scales() -> None:
    logits = torch.randn(2, LAYOUT.tokens, 8)
    targets = torch.rand(2, LAYOUT.tokens, 8) > 0.5
    flat = bit_loss(logits, targets, ScaleWeights("flat").of_tokens(LAYOUT))
    torch.testing.assert_close(flat, bit_loss(logits, targets))
    wrong_at_first = torch.zeros(1, LAYOUT.tokens, 8)
    wrong_at_first[:, LAYOUT.block(0, 0)] = -5.0
    all_ones = torch.ones(1, LAYOUT.tokens, 8, dtype=torch.bool)
    losses = [bit_loss(wrong_at_first, all_ones, ScaleWeights(rule).of_tokens(LAYOUT)) for rule in ("flat", "square_root", "inverse")]
    assert losses[0] < losses[1] < losses[2]


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ValueError, match="flat, square_root, inverse, not 'cubic'"):
        ScaleWeights("cubic")  # type: ignore[arg-type]
