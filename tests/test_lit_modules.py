"""What training logs and moves: schedules end where they should, only what is trained changes, groups of parameters are right."""

import pytest
import torch
from conftest import make_transformer

from modules.autoregression import InMemoryLatentCache
from modules.geometry import Layout, Pyramid
from modules.metrics import BitScores
from modules.training.optim import WarmupCosine, decay_groups


def rates(steps: int, warmup: int, total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule, seen = WarmupCosine(optimizer, warmup, total), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_rate_warms_up_then_falls_to_zero_as_a_cosine() -> None:
    seen = rates(11, 2, 10)
    assert seen[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert seen[6] == pytest.approx(1.0) and seen[10] == pytest.approx(0.0)


def test_rate_without_a_last_step_stays() -> None:
    assert rates(5, 0, -1) == [2.0] * 5


def test_only_matrices_decay() -> None:
    transformer = make_transformer()
    decayed, others = decay_groups(transformer)
    names = {id(parameter): name for name, parameter in transformer.named_parameters()}
    assert {names[id(p)] for p in others["params"]} >= {
        "start",
        "condition.null",
        "scale_embedding.weight",
        "blocks.0.modulation",
        "head.bias",
    }
    assert all(names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(names) and others["weight_decay"] == 0.0


def test_memory_encodes_every_clip_once_and_gives_back_the_same() -> None:
    asked = []

    def encode(video: torch.Tensor) -> torch.Tensor:
        asked.extend(video.flatten().tolist())
        return video * 2

    memory, video = InMemoryLatentCache(3), torch.arange(4.0)[:, None]
    for index in ([0, 1], [1, 2], [3, 0], [3, 2]):
        rows = torch.tensor(index)
        torch.testing.assert_close(memory.fetch(rows, video[rows], encode), video[rows] * 2)
    assert asked == [0.0, 1.0, 2.0, 3.0, 3.0]  # clip 3 came when the memory was full


def test_scores_agree_with_nested_loops() -> None:
    layout = Layout(Pyramid.of(2, 2), 2)
    scores, slow_right, ones = BitScores(layout, 3), torch.zeros(10, 3), torch.zeros(10, 3)
    for _ in range(3):
        logits, targets = torch.randn(2, 10, 3), torch.rand(2, 10, 3) > 0.3
        scores.update(logits, targets)
        slow_right += ((logits > 0) == targets).sum(0)
        ones += targets.sum(0)
    result = scores.compute()
    for frame in range(2):
        for scale in range(2):
            block = layout.block(frame, scale)
            assert result["accuracy"][frame, scale].item() == pytest.approx(slow_right[block].mean().item() / 6)
            expected = torch.maximum(ones[block], 6 - ones[block]).mean().item() / 6
            assert result["majority"][frame, scale].item() == pytest.approx(expected)


def test_table_shows_accuracy_beside_the_trivial_guess() -> None:
    scores = BitScores(Layout(Pyramid.of(2, 2), 2), 3)
    scores.update(torch.ones(2, 10, 3), torch.ones(2, 10, 3, dtype=torch.bool))
    lines = scores.table(scores.compute()).splitlines()
    assert lines[1].split() == ["scale", "1x1", "2x2"] and lines[3].split()[:4] == ["frame", "1", "1.000", "(1.000)"]
