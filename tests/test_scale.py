"""Several processes learn what one learns, and a checkpoint goes from any number of them to any other."""

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import LightningModule, Trainer
from toy_runs import CONFIGS, ROOT, TESTS, arguments, checkpoint, compose, run, weights

from callbacks import CompileBlocks
from modules import load
from scripts.export import export

# Nothing that draws other numbers in other processes.
STILL = (
    "--model.condition_dropout",
    0,
    "--trainer.callbacks",
    "null",
    *("--flip_ratio", "null", "--error_inheritance", "null"),
    "--trainer.max_steps",
    4,
    "--ckpt_path",
    "last",
)
STOP = ("--trainer.callbacks+=test_cli.StopAt", "--trainer.callbacks.step=1", "--trainer.callbacks.graceful=True")


def together(folder: Path, overlay: str, *more: object) -> Path:
    """Two processes that share the batches of one."""
    several = ("-c", CONFIGS / f"trainer/{overlay}.yaml", "--trainer.devices", 2, "--data.batch_size", 2)
    args = arguments("fit", "videoar", folder, *several, *STILL, *more)
    paths = {**os.environ, "PYTHONPATH": str(TESTS)}
    result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=500, env=paths)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "sync_dist" not in result.stderr
    return checkpoint(folder)


def alone(folder: Path, *more: object) -> Path:
    return run("fit", "videoar", folder, *STILL, *more)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    alone(folder)
    return folder


def losses(folder: Path) -> dict[int, float]:
    """Of all held-out clips, by step; a run and those that continue it log into files of their own."""
    rows = [row for file in sorted(folder.glob("log/*/metrics.csv")) for row in csv.DictReader(file.open())]
    return {int(row["step"]): float(row["val/loss"]) for row in rows if row.get("val/loss")}


def scores(folder: Path) -> dict[str, float]:
    """All that the last validation found."""
    rows = [row for file in folder.glob("log/*/metrics.csv") for row in csv.DictReader(file.open()) if row.get("val/loss")]
    return {name: float(value) for name, value in rows[-1].items() if name.startswith("val/")}


def assert_equal(one: Path, other: Path) -> None:
    """Weights, averages of the optimizer, steps and schedules."""
    first, second = (torch.load(checkpoint(folder), weights_only=True) for folder in (one, other))
    assert first["global_step"] == second["global_step"] == 4 and first["lr_schedulers"] == second["lr_schedulers"]
    assert first["state_dict"].keys() == second["state_dict"].keys()
    for name, value in first["state_dict"].items():
        torch.testing.assert_close(second["state_dict"][name], value, rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    states = [found["optimizer_states"][0] for found in (first, second)]
    assert [group["params"] for group in states[0]["param_groups"]] == [group["params"] for group in states[1]["param_groups"]]
    for number, row in states[0]["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(states[1]["state"][number][name], row[name], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["ddp", "fsdp"])
def test_two_processes_learn_what_one_learns(one: Path, tmp_path: Path, overlay: str) -> None:
    together(tmp_path, overlay)
    expected = losses(one)
    assert losses(tmp_path) == pytest.approx(expected, abs=1e-4) and list(expected) == [1, 3]
    assert abs(expected[1] - expected[3]) > 1e-3
    # A bit whose logit is next to 0 may go either way.
    assert scores(tmp_path) == pytest.approx(scores(one), abs=0.05) and len(scores(one)) > 10
    majority = [{name: value for name, value in scores(folder).items() if "majority" in name} for folder in (tmp_path, one)]
    assert majority[0] == pytest.approx(majority[1], abs=1e-6)
    assert_equal(one, tmp_path)


@pytest.mark.slow
def test_two_shares_become_one_model(one: Path, tmp_path: Path) -> None:
    together(tmp_path, "fsdp", *STOP)
    assert torch.load(checkpoint(tmp_path), weights_only=True)["global_step"] == 2
    export(tmp_path, out=tmp_path / "model.safetensors")
    load(tmp_path / "model.safetensors").generate("3 left")
    alone(tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-4)
    assert_equal(one, tmp_path)


@pytest.mark.slow
def test_one_model_becomes_two_shares(one: Path, tmp_path: Path) -> None:
    alone(tmp_path, *STOP)
    together(tmp_path, "fsdp")
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-4)
    assert_equal(one, tmp_path)


GUARDED = """
import torch
from callbacks import SkipNonFiniteSteps
class Poison(SkipNonFiniteSteps):
    # One process has a gradient that is not finite in the second step; both must leave it out.
    def on_after_backward(self, trainer, module):
        gradient = next(p.grad for p in module.transformer.blocks[0].parameters() if p.grad is not None)
        if trainer.global_step == 1 and trainer.global_rank == 1:
            getattr(gradient, "_local_tensor", gradient).fill_(float("nan"))
        self.before = [p.detach().clone() for p in module.transformer.parameters()]
    def on_train_batch_end(self, trainer, module, *rest):
        same = all(bool((a == b).all()) for a, b in zip(self.before, module.transformer.parameters()))
        assert same == (trainer.global_step == 2), trainer.global_step
        super().on_train_batch_end(trainer, module, *rest)
"""


@pytest.mark.slow
def test_processes_agree_to_skip_a_step(tmp_path: Path) -> None:
    """With shares; with whole copies, all processes have the same mean gradient anyway."""
    (tmp_path / "poison.py").write_text(GUARDED)
    options = ("--trainer.gradient_clip_val", 1.0, "--trainer.callbacks+=poison.Poison")
    several = ("-c", CONFIGS / "trainer/fsdp.yaml", "--trainer.devices", 2, "--data.batch_size", 2, *STILL, *options)
    paths = {**os.environ, "PYTHONPATH": str(tmp_path)}
    args = arguments("fit", "videoar", tmp_path / "run", *several)
    result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=500, env=paths)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(list((tmp_path / "run").glob("suspicious_steps.rank*.jsonl"))) == 2


@pytest.mark.slow
def test_compiled_blocks_learn_the_same(one: Path, tmp_path: Path) -> None:
    """Traced, but not made code of, which takes a minute."""
    compiled = alone(tmp_path, "--trainer.callbacks+=CompileBlocks", "--trainer.callbacks.backend=eager")
    assert weights(compiled).keys() == weights(checkpoint(one)).keys()
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-4)


def test_a_step_of_four_batches_is_a_step_of_a_batch_four_times_as_large(one: Path, tmp_path: Path) -> None:
    alone(tmp_path, "-c", CONFIGS / "trainer/single.yaml", "--data.batch_size", 1, "--trainer.val_check_interval", 8)
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-4)


def test_models_without_blocks_are_not_compiled() -> None:
    class Nothing(LightningModule):
        pass

    with pytest.raises(ValueError, match="needs a model with a transformer; Nothing has none"):
        CompileBlocks().setup(Trainer(logger=False, accelerator="cpu"), Nothing(), "fit")


def test_the_sharded_configuration_checkpoints_activations(tmp_path: Path) -> None:
    """In mixed precision, blocks that are not computed again would keep copies of all weights on every device."""
    settings: Any = yaml.safe_load((CONFIGS / "trainer/fsdp.yaml").read_text())
    assert settings["trainer"]["strategy"]["class_path"] == "modules.training.fsdp.FullySharded"
    model = compose("videoar", tmp_path, "-c", CONFIGS / "trainer/fsdp.yaml", "--trainer.devices", 2).model
    assert model.transformer.execution.activation_checkpointing


@pytest.mark.slow
def test_torchrun_starts_the_processes_as_well(one: Path, tmp_path: Path) -> None:
    several = ("-c", CONFIGS / "trainer/ddp.yaml", "--trainer.devices", 2, "--data.batch_size", 2)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train.py"]
    args = arguments("fit", "videoar", tmp_path, *several, *STILL)
    result = subprocess.run([*command, *args], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]
    assert losses(tmp_path) == pytest.approx(losses(one), abs=1e-4)
