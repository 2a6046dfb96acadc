"""What would harm a run is kept from its weights, written down, and ends the run if it does not stop."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from test_callbacks import make_trainer
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import SkipNonFiniteSteps


class Scripted(LightningModule):
    """Two weights; batch ``n`` has the loss ``script[n]`` times their sum."""

    def __init__(self, script: list[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.script, self.seen = script, []

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        self.seen.append(self.weight.detach().clone())
        return self.weight.mean() * self.script[int(batch["index"][0])]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)


def fit(folder: Path, script: list[float], guard: SkipNonFiniteSteps, **settings: Any) -> Scripted:
    model = Scripted(script)
    loader = DataLoader([{"index": torch.tensor([number])} for number in range(len(script))], batch_size=None)  # type: ignore[arg-type]
    make_trainer(folder, guard, max_epochs=1, gradient_clip_val=1.0, **settings).fit(model, loader)
    return model


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "suspicious_steps.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_step_changes_nothing_and_is_written_down(tmp_path: Path, bad: float) -> None:
    guard = SkipNonFiniteSteps()
    model = fit(tmp_path, [1.0, 1.0, bad, 1.0], guard)
    clean = fit(tmp_path / "clean", [1.0, 1.0, 1.0], SkipNonFiniteSteps())
    assert torch.equal(model.weight, clean.weight) and not torch.equal(model.seen[1], model.seen[2])
    assert torch.equal(model.seen[2], model.seen[3]) and guard.guard.skipped == 1
    assert lines(tmp_path) == [{"step": 2, "what": "skipped", "gradient_norm": "nan" if bad != bad else "inf", "clips": [2]}] or bad == bad
    assert [line["clips"] for line in lines(tmp_path)] == [[2]]
    assert not (tmp_path / "clean/suspicious_steps.jsonl").exists()


def test_without_the_guard_the_weights_would_be_lost(tmp_path: Path) -> None:
    model = Scripted([float("nan")])
    loader = DataLoader([{"index": torch.tensor([0])}], batch_size=None)  # type: ignore[arg-type]
    make_trainer(tmp_path, max_epochs=1, gradient_clip_val=1.0).fit(model, loader)
    assert model.weight.isnan().all()


def test_all_batches_of_an_accumulated_step_are_named(tmp_path: Path) -> None:
    fit(tmp_path, [1.0, 1.0, float("nan"), 1.0, 1.0, 1.0], SkipNonFiniteSteps(), accumulate_grad_batches=2)
    assert [line["clips"] for line in lines(tmp_path)] == [[2, 3]]


def test_too_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    nan = float("nan")
    with pytest.raises(ValueError, match=r"2 consecutive steps .* the last one for clips \[4\], listed in .*suspicious_steps.jsonl"):
        fit(tmp_path, [1.0, nan, 1.0, nan, nan, 1.0], SkipNonFiniteSteps(patience=2))
    assert [line["clips"] for line in lines(tmp_path)] == [[1], [3], [4]]


def test_a_sudden_loss_is_reported_once_and_does_not_raise_the_bar(tmp_path: Path) -> None:
    quiet = [1.0 + 0.01 * (number % 3) for number in range(20)]
    fit(tmp_path, [*quiet, 50.0, *quiet], SkipNonFiniteSteps(window=10))
    (line,) = lines(tmp_path)
    assert line["what"] == "spike" and line["clips"] == [20] and line["loss"] > 10 * line["mean"] > 0


def test_the_count_goes_into_the_checkpoint() -> None:
    guard, later = SkipNonFiniteSteps(), SkipNonFiniteSteps()
    guard.guard.skipped = 3
    guard._losses.extend([1.0, 2.0])
    later.load_state_dict(guard.state_dict())
    assert later.guard.skipped == 3 and list(later._losses) == [1.0, 2.0]


def test_impossible_settings_are_refused() -> None:
    for settings in ({"patience": 0}, {"window": 1}, {"deviations": 0.0}):
        with pytest.raises(ValueError, match="at least"):
            SkipNonFiniteSteps(**settings)
