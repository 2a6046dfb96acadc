"""Old names in configurations and on the command line end in one line that names the replacement."""

from pathlib import Path

import pytest
import yaml
from toy_runs import CONFIGS, run

from modules import load
from modules.renames import CLASSES, KEYS, check_arguments, check_config
from train import main

OLD = {
    "trainer": {
        "callbacks": [
            {"class_path": "callbacks.GuardSteps"},
            {"class_path": "callbacks.FlipRatioSchedule", "init_args": {"warmup_steps": 100}},
            {"class_path": "own.EMA", "init_args": {"warmup_steps": 100}},
        ]
    },
    "model": {
        "class_path": "modules.LitVideoAR",
        "init_args": {"extension": None, "transformer": {"init_args": {"execution": {"recompute": False}}}},
    },
}


def test_all_old_names_of_a_file_are_listed_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump(OLD))
    with pytest.raises(ValueError, match="earlier version") as caught:
        main(["fit", "-c", str(path)])
    message = str(caught.value)
    assert message.startswith(f"{path} uses names") and "\n" not in message
    for old, new in (
        ("callbacks.GuardSteps", "callbacks.SkipNonFiniteSteps"),
        ("FlipRatioSchedule.warmup_steps", "ramp linear with end_step"),
        ("model.extension", "model.long_video"),
        ("model.transformer.execution.recompute", "model.transformer.execution.activation_checkpointing"),
    ):
        assert f"{old} is now {new}" in message
    assert message.count("warmup_steps") == 1


def test_old_names_on_the_command_line() -> None:
    for option, message in (
        ("--model.extension.window=10", "model.extension is now model.long_video"),
        ("--data.held_out_share", "data.held_out_share is now data.held_out_fraction"),
        ("--data.parts.video.init_args.until=[1]", "data.parts.video.until is now data.parts.video.milestones"),
        ("--trainer.callbacks+=GuardSteps", "GuardSteps is now SkipNonFiniteSteps"),
        ("--trainer.callbacks.numbers=float16", "trainer.callbacks.numbers is now trainer.callbacks.dtype"),
        ("--trainer.callbacks+=benchmarks.rollout_judge.RolloutJudge", "is now experiments.rollout_classifier.RolloutClassifier"),
        ("--trainer.strategy=modules.sharding.FullySharded", "modules.sharding.FullySharded is now modules.training.fsdp.FullySharded"),
    ):
        with pytest.raises(ValueError, match="the command line uses names of an earlier version") as caught:
            check_arguments(["fit", option, "0.1"])
        assert message in str(caught.value)


def test_shipped_configurations_have_no_old_names() -> None:
    for path in CONFIGS.rglob("*.yaml"):
        check_config(yaml.safe_load(path.read_text()), path)


def test_no_name_is_replaced_by_an_old_one() -> None:
    assert not set(CLASSES) & set(CLASSES.values())
    assert not {key.rpartition(".")[2] for key in KEYS} & set(KEYS.values())


def test_a_run_of_an_earlier_version_is_refused_in_one_line(tmp_path: Path) -> None:
    run("fit", "videoar", tmp_path)
    path = tmp_path / "fit.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["extension"] = config["model"]["init_args"].pop("long_video")
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"fit\.yaml uses names of an earlier version: model\.extension is now model\.long_video"):
        load(tmp_path)
