"""Stages of a training on toy clips: by overlays of one run each, and by growth inside of one run. What is trained on is as configured."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from test_cli import Stop
from toy_runs import ROOT, arguments, run, weights

from datamodules import MovingDigits
from modules.geometry import Layout, Pyramid
from train import main

# What the steps of the latest run were like: the clips' (B, T, H, W), and how many tokens the model predicted.
STEPS: list[tuple[tuple[int, ...], int]] = []


class Steps(Callback):
    """Writes down what every training step is like; ends the run before step ``stop`` as a lost machine would."""

    def __init__(self, stop: int = -1) -> None:
        self.stop = stop

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        STEPS.clear()
        if hasattr(pl_module, "transformer"):
            pl_module.transformer.register_forward_hook(self._count)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.stop:
            raise Stop
        video = batch["video"]
        STEPS.append(((len(video), *video.shape[2:]), 0))

    def _count(self, transformer: Any, arguments: Any, logits: torch.Tensor) -> None:
        if transformer.training:
            STEPS[-1] = (STEPS[-1][0], logits.shape[1])


def overlay(folder: Path, name: str, data: dict[str, Any], steps: int) -> list[object]:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"data": data, "trainer": {"max_steps": steps, "val_check_interval": steps}}))
    return ["-c", file, "--trainer.callbacks+=test_stages.Steps"]


def digits(frames: int, side: int, batch_size: int, **more: object) -> dict[str, Any]:
    clip = {"frames": frames, "height": side, "width": side}
    return {
        "class_path": "datamodules.MovingDigits",
        "init_args": {"clip": clip, "batch_size": batch_size, "clips": 16, "held_out": 4, **more},
    }


def joint(frames: int, side: int, share: int = 1) -> dict[str, Any]:
    """Video and pictures, as in the paper's stages I and II; batches may be shared by several processes."""
    parts = {"video": digits(frames, side, 2 // share), "images": digits(1, side, 4 // share)}
    settings = {"clip": parts["video"]["init_args"]["clip"], "parts": parts, "ratio": {"video": 2, "images": 1}, "main": "video"}
    return {"class_path": "datamodules.Mixture", "init_args": settings}


def tokens(frames: int, side: int) -> int:
    """Of a toy tokenizer: 4 x 4 pixels and 4 frames per token."""
    return Layout(Pyramid.of(side // 4, side // 4), 1 + (frames - 1) // 4).tokens


@pytest.mark.slow
def test_three_stages_by_overlays_train_on_what_they_say(tmp_path: Path) -> None:
    stages = {
        "1_joint": (joint(5, 16), {(2, 5, 16, 16): tokens(5, 16), (4, 1, 16, 16): tokens(1, 16)}),
        "2_joint": (joint(5, 24), {(2, 5, 24, 24): tokens(5, 24), (4, 1, 24, 24): tokens(1, 24)}),
        "3_long": (digits(13, 24, 1), {(1, 13, 24, 24): tokens(13, 24)}),
    }
    tokenizer = run("fit", "tokenizer", tmp_path / "tokenizer", *overlay(tmp_path, "0", joint(5, 16), 6))
    assert {shape for shape, _ in STEPS} == set(stages["1_joint"][1]) and len(STEPS) == 6
    before = tokenizer
    for name, (data, lengths) in stages.items():
        after = run("fit", "videoar", tmp_path / name, *overlay(tmp_path, name, data, 6), "--init_from", before)
        assert len(STEPS) == 6 and dict(STEPS) == lengths
        # A third of the steps, to within one or two.
        assert len(lengths) == 1 or 1 <= sum(frames == 1 for (_, frames, *_), _ in STEPS) <= 3
        learned = "transformer.blocks.0.attention.qkv.weight"
        assert before == tokenizer or not torch.equal(weights(before)[learned], weights(after)[learned])
        before = after
    saved = yaml.safe_load((tmp_path / "1_joint" / "fit.yaml").read_text())["data"]["init_args"]
    assert set(saved["parts"]) == {"video", "images"} and saved["ratio"] == {"video": 2, "images": 1} and saved["main"] == "video"


UNTIL = {2: {"frames": 1, "batch_size": 4}, 4: {"frames": 5, "height": 16, "width": 16}}


@pytest.mark.parametrize("task", ["tokenizer", "videoar"])
def test_three_stages_in_one_run_train_on_what_they_say(tmp_path: Path, task: str) -> None:
    run("fit", task, tmp_path / "one", *overlay(tmp_path, "growing", digits(13, 24, 2, milestones=UNTIL), 6))
    wanted = [(4, 1, 24, 24)] * 2 + [(2, 5, 16, 16)] * 2 + [(2, 13, 24, 24)] * 2
    assert [shape for shape, _ in STEPS] == wanted
    if task == "videoar":
        assert [length for _, length in STEPS] == [tokens(frames, side) for _, frames, side, _ in wanted]
    # What the run wrote down is the same run again.
    steps = list(STEPS)
    run("fit", task, tmp_path / "again", "-c", tmp_path / "one" / "fit.yaml", "--trainer.default_root_dir", tmp_path / "again")
    assert steps == STEPS


@pytest.mark.parametrize(
    "data", [joint(5, 16), digits(9, 16, 2, milestones={3: {"frames": 1, "batch_size": 4}})], ids=["mixture", "growing"]
)
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path, data: dict[str, Any]) -> None:
    """Latents kept in memory too, which a resumed run has to encode again."""
    options = (*overlay(tmp_path, "data", data, 9), "--checkpoint.every_n_train_steps", 1, "--ckpt_path", "last")
    whole = run("fit", "videoar", tmp_path / "whole", *options)
    for stop in (3, 7, -1):
        with nullcontext() if stop < 0 else pytest.raises(Stop):
            parts = run("fit", "videoar", tmp_path / "parts", *options, f"--trainer.callbacks.stop={stop}")
    first, second = weights(whole), weights(parts)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.slow
def test_two_processes_learn_from_a_mixture_what_one_learns(tmp_path: Path) -> None:
    """Were they at different parts in one step, they would not even finish."""
    still = ("--model.condition_dropout", 0, "--trainer.callbacks", "null", *("--flip_ratio", "null", "--error_inheritance", "null"))
    one = run("fit", "videoar", tmp_path / "one", *overlay(tmp_path, "one", joint(5, 16), 5)[:2], *still)
    shared = (*overlay(tmp_path, "two", joint(5, 16, share=2), 5)[:2], *still, "--trainer.devices", 2, "--trainer.strategy", "ddp")
    args = arguments("fit", "videoar", tmp_path / "two", *shared)
    result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-2000:]
    expected, found = weights(one), weights(tmp_path / "two" / "checkpoints" / "last.ckpt")
    worst = max((value - found[name]).abs().max().item() for name, value in expected.items() if value.is_floating_point())
    assert worst < 1e-5, worst


@pytest.mark.parametrize("changing", [False, True])
def test_latents_of_clips_that_change_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changing: bool) -> None:
    monkeypatch.setattr(MovingDigits, "changing", changing)
    memory = main(arguments("fit", "videoar", tmp_path, *overlay(tmp_path, "joint", joint(5, 16), 6))).model.latent_cache
    if changing:
        assert memory.clips == 0 and not memory._latents
    else:
        # Numbers of the parts are apart: pictures come first by name.
        assert {(number < 16, latent.shape[1]) for number, latent in memory._latents.items()} == {(True, 1), (False, 2)}


def test_clips_that_do_not_fit_the_model_are_refused_before_training(tmp_path: Path) -> None:
    for name, data in {
        "milestones": digits(13, 24, 2, milestones={2: {"frames": 4}}),
        "part": {
            **joint(5, 16),
            "init_args": {**joint(5, 16)["init_args"], "parts": {"video": digits(5, 16, 2), "images": digits(4, 16, 2)}},
        },
    }.items():
        for task in ("tokenizer", "videoar"):
            with pytest.raises(ValueError, match=r"1 \+ 4 \* n frames, got 4"):
                run("fit", task, tmp_path / name, *overlay(tmp_path, name, data, 6))
    with pytest.raises(ValueError, match=r"16 training clips \(before step 2\) do not fill one batch of 40"):
        run("fit", "videoar", tmp_path / "few", *overlay(tmp_path, "few", digits(5, 16, 2, milestones={2: {"batch_size": 40}}), 6))
