"""Flip ratio and error inheritance as named callbacks of the command line."""

from pathlib import Path

import pytest
from toy_runs import compose

from callbacks import ErrorInheritance, FlipRatioSchedule


def test_named_callbacks_are_overridden_switched_off_and_absent(tmp_path: Path) -> None:
    def found(task: str, *more: str) -> tuple[list[float], list[int]]:
        callbacks = compose(task, tmp_path, *more).trainer.callbacks
        ratios = [each.final.p_max for each in callbacks if isinstance(each, FlipRatioSchedule)]
        return ratios, [each.start_step for each in callbacks if isinstance(each, ErrorInheritance)]

    assert found("videoar") == ([0.1], [0])
    assert found("videoar", "--flip_ratio.p_max", "0.25", "--error_inheritance.start_step", "1") == ([0.25], [1])
    assert found("videoar", "--flip_ratio", "null", "--error_inheritance", "null") == ([], [])
    assert found("tokenizer") == ([], [])


def test_a_wrong_value_ends_in_its_own_sentence(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"flip ratios need 0 <= p_min <= p_max <= 0\.5"):
        compose("videoar", tmp_path, "--flip_ratio.p_max", "0.7")
