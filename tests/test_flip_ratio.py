"""Schedules of the flip ratio and of error inheritance."""

from pathlib import Path

import pytest
from lightning import Callback
from test_callbacks import Plain, Toy, ToyData, make_trainer

from callbacks import ErrorInheritance, FlipRatioSchedule, LogVideos
from modules.autoregression import BitCorruption


def test_ramps_start_end_and_rise_in_their_shapes() -> None:
    linear = FlipRatioSchedule(p_min=0.1, p_max=0.3, delta=0.02, ramp="linear", start_step=10, end_step=20)
    assert linear.value(0) == linear.value(10) == (0.0, 0.0, 0.0, 0.0)
    assert linear.value(15) == pytest.approx((0.05, 0.15, 0.01, 0.01))
    assert linear.value(20) == linear.value(1000) == (0.1, 0.3, 0.02, 0.02)
    cosine = FlipRatioSchedule(p_max=0.2, ramp="cosine", start_step=10, end_step=20)
    assert [cosine.fraction(step) for step in (5, 10, 15, 20, 30)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert cosine.fraction(12) < linear.fraction(12) and cosine.fraction(18) > linear.fraction(18)
    none = FlipRatioSchedule(start_step=3)
    assert none.value(2) == (0, 0, 0, 0) and none.value(3) == (0.0, 0.25, 0.01, 0.01)  # the paper's values
    assert FlipRatioSchedule(delta_min=0.0).value(0) == (0.0, 0.25, 0.01, 0.0)


def test_impossible_ratios_and_ramps_are_refused() -> None:
    for settings, message in (
        ({"p_min": -0.1}, "p_min -0.1"),
        ({"p_min": 0.3}, "p_min 0.3, p_max 0.25"),
        ({"p_max": 0.6}, "p_max 0.6"),
        ({"delta": -0.01}, "-0.01"),
        ({"delta_min": 0.02}, "delta_min must be between 0 and delta 0.01, got 0.02"),
        ({"start_step": -1}, "-1"),
        ({"end_step": 5}, "end_step 5 needs a ramp"),
        ({"ramp": "linear"}, "linear ramp needs an end_step after its start_step 0, got None"),
        ({"ramp": "cosine", "start_step": 5, "end_step": 5}, "got 5"),
    ):
        with pytest.raises(ValueError, match=message):
            FlipRatioSchedule(**settings)
    with pytest.raises(ValueError, match="-2"):
        ErrorInheritance(start_step=-2)


def test_settings_that_would_overwrite_each_other_or_never_start_are_refused(tmp_path: Path) -> None:
    flipping, inheriting = Toy(), Toy()
    flipping.corruption = BitCorruption(0.0, 0.1)
    inheriting.corruption = BitCorruption(inherit=True)
    for callbacks, model, message in (
        ([FlipRatioSchedule(), FlipRatioSchedule()], Toy(), "2 callbacks FlipRatioSchedule would overwrite each other"),
        ([ErrorInheritance(), ErrorInheritance()], Toy(), "2 callbacks ErrorInheritance would overwrite each other"),
        ([FlipRatioSchedule()], flipping, "flip ratios are set twice: model.corruption has p_max 0.1"),
        ([ErrorInheritance()], inheriting, "error inheritance is set twice"),
        ([FlipRatioSchedule(start_step=2)], Toy(), "flip_ratio.start_step is 2, and the run ends at trainer.max_steps 2"),
        ([ErrorInheritance(start_step=9)], Toy(), "error_inheritance.start_step is 9"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path, *callbacks, max_steps=2).fit(model, ToyData())


def test_a_second_fit_of_one_model_may_have_another_schedule(tmp_path: Path) -> None:
    model = Toy()
    for schedule in (FlipRatioSchedule(p_max=0.1), FlipRatioSchedule(p_max=0.2)):
        make_trainer(tmp_path, schedule, ErrorInheritance(), max_steps=1, limit_val_batches=0).fit(model, ToyData())
    assert model.seen[0][1] == 0.2 and (model.corruption.p_max, model.corruption.inherit) == (0.0, False)


@pytest.mark.parametrize("callback", [FlipRatioSchedule(), ErrorInheritance(), LogVideos()])
def test_models_that_lack_something_are_refused(tmp_path: Path, callback: Callback) -> None:
    with pytest.raises(TypeError, match=f"{type(callback).__name__} needs a model with a .*; Plain has none"):
        make_trainer(tmp_path, callback, max_steps=1).fit(Plain(), ToyData())


def test_resumed_schedule_equals_the_whole_one(tmp_path: Path) -> None:
    def run(steps: int, checkpoint: Path | None = None) -> dict[int, tuple[float, float, float, bool]]:
        model = Toy()
        schedules = FlipRatioSchedule(0.1, 0.2, 0.05, ramp="linear", end_step=6), ErrorInheritance(start_step=4)
        trainer = make_trainer(tmp_path, *schedules, max_steps=steps, limit_val_batches=0)
        trainer.fit(model, ToyData(), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return model.seen

    whole = run(8)
    assert whole == run(5) | run(8, tmp_path / "last.ckpt")
    assert whole[0] == (0.0, 0.0, 0.0, False)
    assert whole[3][:3] == pytest.approx((0.05, 0.1, 0.025))
    assert [whole[step][3] for step in (3, 4)] == [False, True]
    assert whole[7] == (0.1, 0.2, 0.05, True)
