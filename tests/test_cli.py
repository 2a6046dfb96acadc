"""The command line as a user types it, at toy sizes: every task, every stage, and runs that are stopped, resumed and shared."""

import csv
import json
import os
import subprocess
import sys
from contextlib import nullcontext
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Callback, LightningModule, Trainer
from stage_runs import StageRuns
from toy_runs import CONFIGS, ROOT, arguments, checkpoint, compose, run, weights

from datamodules.decoding.reader import probe, read_clip
from modules import LitVideoAR
from modules.geometry import Clip
from scripts.export_digits import export
from train import main


def test_the_video_tokenizer_starts_as_the_picture_tokenizer(stage_runs: StageRuns, tmp_path: Path) -> None:
    source = checkpoint(stage_runs.image_tokenizer)
    cli = compose("tokenizer", tmp_path, "--init_from", source)
    start, pictures = cli.model.state_dict(), weights(source)
    assert cli.model.weights_source == str(source) and start.keys() == pictures.keys()
    deeper = [name for name, kernel in start.items() if kernel.shape != pictures[name].shape]
    assert deeper and all(start[name].shape[2] == 3 and pictures[name].shape[2] == 1 for name in deeper)
    for name, kernel in start.items():
        flat = kernel[:, :, -1:] if name in deeper else kernel
        assert torch.equal(flat, pictures[name]) and kernel.count_nonzero() == flat.count_nonzero()


def test_training_moves_all_of_the_tokenizer_and_then_none_of_it(stage_runs: StageRuns, tmp_path: Path) -> None:
    video, short, long = (
        weights(checkpoint(stage)) for stage in (stage_runs.video_tokenizer, stage_runs.short_clips, stage_runs.long_clips)
    )
    start = compose("tokenizer", tmp_path, "--init_from", checkpoint(stage_runs.image_tokenizer)).model.state_dict()
    assert all(not torch.equal(value, start[name]) for name, value in video.items())
    frozen = [name for name in short if name.startswith("tokenizer.")]
    assert len(frozen) == len(video) and all(torch.equal(stage[name], video[name]) for stage in (short, long) for name in frozen)
    learned = [name for name in short if name.startswith("transformer.") and not name.endswith("_extra_state")]
    assert learned and any(not torch.equal(short[name], long[name]) for name in learned)


def flat(values: Any, path: str = "") -> dict[str, Any]:
    if isinstance(values, dict):
        return {key: value for name, part in values.items() for key, value in flat(part, f"{path}.{name}").items()}
    return {path: values}


def test_the_stages_differ_in_their_data_only(stage_runs: StageRuns) -> None:
    short, long = (
        flat(yaml.safe_load((stage / "fit.yaml").read_text().replace(str(stage), "ROOT")))
        for stage in (stage_runs.short_clips, stage_runs.long_clips)
    )
    assert short.keys() == long.keys()
    assert {key for key in short if short[key] != long[key]} == {".init_from", ".data.init_args.clip.frames"}


def test_validating_a_checkpoint_finds_what_training_found(stage_runs: StageRuns, tmp_path: Path) -> None:
    run("validate", "videoar", tmp_path, "--ckpt_path", checkpoint(stage_runs.short_clips))
    rows = [next(csv.DictReader(file.open())) for file in tmp_path.glob("log/*/metrics.csv")]
    during = [row for row in csv.DictReader(next(stage_runs.short_clips.glob("log/*/metrics.csv")).open()) if row["val/loss"]]
    assert float(rows[0]["val/loss"]) == pytest.approx(float(during[-1]["val/loss"]), rel=1e-5)


def test_testing_the_tokenizer_reports_it(stage_runs: StageRuns, tmp_path: Path) -> None:
    run("test", "tokenizer", tmp_path, "--init_from", checkpoint(stage_runs.video_tokenizer))
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["protocol"]["clips"] == 4 and report["protocol"]["checkpoint"] == str(checkpoint(stage_runs.video_tokenizer))
    assert report["metrics"]["test/psnr"] > 0 and set(report["judge"]) == {"real", "reconstructed"}


def test_testing_the_model_judges_real_reconstructed_and_generated_clips(stage_runs: StageRuns, tmp_path: Path) -> None:
    run("test", "videoar", tmp_path, "--ckpt_path", checkpoint(stage_runs.long_clips), "--data.clip.frames", 9)
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["judge"]) == {"real", "reconstructed", "generated"}
    assert report["judge"]["real"]["digit_all"] == 1.0 and all(row["clips"] == 4 for row in report["judge"].values())
    assert report["protocol"]["checkpoint"] == str(checkpoint(stage_runs.long_clips)) and report["protocol"]["frames"] == 9
    assert 0 <= report["metrics"]["test/accuracy/frame2_scale0"] <= 1 and "test/accuracy/frame3_scale0" not in report["metrics"]
    assert (tmp_path / "report.png").stat().st_size > 0


SAMPLE = ("-c", CONFIGS / "sample.yaml", "--data.clip.height", 16, "--data.clip.width", 16, "--data.clip.frames", 9)


def test_predict_writes_every_clip_long_ones_and_continued_ones_too(stage_runs: StageRuns, tmp_path: Path) -> None:
    export(tmp_path / "given", 1, Clip(9, 16, 16))
    (picture,) = (tmp_path / "given").glob("*.png")
    prompts = tmp_path / "prompts.jsonl"
    rows = [
        {"condition": "3 left", "name": "short"},
        {"condition": "7 up", "name": "long", "frames": 21},
        {"condition": "0 up", "name": "continued", "prefix": str(picture)},
    ]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--data.prompts", prompts, "--model.sampler.temperature", 0.6, "--ckpt_path", checkpoint(stage_runs.long_clips))
    command = ("predict", "videoar", tmp_path, *SAMPLE, *options)
    run(*command)
    made = tmp_path / "samples"
    files = {f"{row['name']}{suffix}" for row in rows for suffix in (".mp4", ".webp")}
    assert {path.name for path in made.iterdir()} == {*files, "contact_sheet.png", "manifest.jsonl"}
    manifest = {line["file"]: line for line in map(json.loads, (made / "manifest.jsonl").read_text().splitlines())}
    lengths = {name: (line["condition"], line["frames"], line["prefix_frames"]) for name, line in manifest.items()}
    assert lengths == {"short.mp4": ("3 left", 9, 0), "long.mp4": ("7 up", 21, 0), "continued.mp4": ("0 up", 9, 1)}
    assert all(probe(made / name).frames == line["frames"] for name, line in manifest.items())
    assert all(line["checkpoint"] == str(checkpoint(stage_runs.long_clips)) for line in manifest.values())
    assert manifest["short.mp4"]["settings"]["temperature"] == 0.6

    given, short, continued = (read_clip(path, Clip(1, 16, 16)).float() for path in (picture, made / "short.mp4", made / "continued.mp4"))
    assert (continued - given).abs().mean() < 10 < (short - given).abs().mean()
    before = {path.name: path.read_bytes() for path in made.iterdir()}
    run(*command)
    assert before == {path.name: path.read_bytes() for path in made.iterdir()}


class Stop(Exception):
    pass


class StopAt(Callback):
    """Stops a run at a step: with an exception before it, like a full disk or a lost machine, or gracefully after it."""

    def __init__(self, step: int, graceful: bool) -> None:
        self.step, self.graceful = step, graceful

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step != self.step:
            return
        if not self.graceful:
            raise Stop
        trainer.should_stop = True


ADVERSARIAL = (
    *("--model.adversarial", "AdversarialLoss", "--model.adversarial.channels", 8, "--model.adversarial.start_step", 1),
    *("--model.scale_dropping", 0.5),
)
ROLLOUT = ("--model.rollout", "Rollout", "--model.rollout.fraction", 0.5, "--model.frame_mask", "RandomFrameMask")
AVERAGED = ("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5")


@pytest.mark.parametrize(
    ("task", "options"),
    [
        pytest.param("tokenizer", (), marks=pytest.mark.slow),
        ("tokenizer", ADVERSARIAL),
        pytest.param("videoar", (), marks=pytest.mark.slow),
        ("videoar", ROLLOUT),
        ("videoar", AVERAGED),
    ],
    ids=["tokenizer", "adversarial", "videoar", "rollout", "averaged"],
)
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path: Path, task: str, options: tuple) -> None:
    """An epoch has 4 steps and every second step is saved: the run resumes inside an epoch, at its end, and after a graceful stop."""
    steps = ("--trainer.max_steps", 6, "--ckpt_path", "last", *options)
    whole = run("fit", task, tmp_path / "whole", *steps)
    for stop, graceful, saved in ((3, False, 2), (5, False, 4), (4, True, 5)):
        stopper = ("--trainer.callbacks+=test_cli.StopAt", f"--trainer.callbacks.step={stop}", f"--trainer.callbacks.graceful={graceful}")
        with nullcontext() if graceful else pytest.raises(Stop):
            run("fit", task, tmp_path / "parts", *steps, *stopper)
        assert torch.load(checkpoint(tmp_path / "parts"), weights_only=True)["global_step"] == saved
    parts = run("fit", task, tmp_path / "parts", *steps)
    first, second = (torch.load(path, weights_only=True) for path in (whole, parts))
    assert first["global_step"] == second["global_step"] == 6
    assert all(torch.equal(value, second["state_dict"][name]) for name, value in first["state_dict"].items())
    for one, other in zip(first["optimizer_states"], second["optimizer_states"], strict=True):
        moments = [optimizer["state"] for optimizer in (one, other)]
        assert all(torch.equal(value, moments[1][number][name]) for number, row in moments[0].items() for name, value in row.items())
    assert first["lr_schedulers"] == second["lr_schedulers"]


def test_what_is_done_to_the_bits_is_logged(tmp_path: Path) -> None:
    run("fit", "videoar", tmp_path, "--trainer.max_steps", 4, "--trainer.log_every_n_steps", 1, *ROLLOUT)
    with next(tmp_path.glob("log/*/metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    logged = ("flip_ratio/p_max", "flip_ratio/delta", "error_inheritance")
    found = {name: [round(float(row[f"train/{name}"]), 6) for row in rows] for name in logged}
    assert found == {"flip_ratio/p_max": [0.1] * 4, "flip_ratio/delta": [0.01] * 4, "error_inheritance": [1.0] * 4}
    assert [float(row["train/rollout"]) for row in rows] == [0.0, 1.0, 0.0, 1.0]


def test_every_process_and_every_step_draws_noise_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli, drawn = compose("videoar", tmp_path, "--trainer.accumulate_grad_batches", 2), {}
    model, model.trainer = cli.model, cli.trainer
    for _ in range(2):
        for place in product((0, 1), repeat=3):
            rank, step, batch_index = place
            monkeypatch.setattr(LitVideoAR, "global_rank", rank)
            monkeypatch.setattr(LitVideoAR, "global_step", step)
            model.on_train_batch_start({}, batch_index)
            drawn.setdefault(place, set()).add(torch.rand(()).item())
    assert all(len(numbers) == 1 for numbers in drawn.values()) and len(set.union(*drawn.values())) == 8


def test_without_a_checkpoint_yet_last_means_from_the_start(tmp_path: Path) -> None:
    plain = weights(run("fit", "tokenizer", tmp_path / "plain"))
    last = weights(run("fit", "tokenizer", tmp_path / "last", "--ckpt_path", "last"))
    assert all(torch.equal(value, last[name]) for name, value in plain.items())


def test_the_saved_configuration_is_a_run_of_its_own(stage_runs: StageRuns, tmp_path: Path) -> None:
    saved = stage_runs.long_clips / "fit.yaml"
    moved = tmp_path / "fit.yaml"
    moved.write_text(saved.read_text().replace(str(stage_runs.long_clips), str(tmp_path)))
    text = moved.read_text()
    main(["fit", "-c", str(moved)])
    assert moved.read_text() == text and str(tmp_path) in text
    again, before = weights(checkpoint(tmp_path)), weights(checkpoint(stage_runs.long_clips))
    assert all(torch.equal(value, again[name]) for name, value in before.items())


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_twice_the_batch(stage_runs: StageRuns, tmp_path: Path) -> None:
    still = (
        "--init_from",
        checkpoint(stage_runs.video_tokenizer),
        "--model.condition_dropout",
        0,
        "--trainer.callbacks",
        "null",
        *("--flip_ratio", "null", "--error_inheritance", "null"),
    )
    one = run("fit", "videoar", tmp_path / "one", *still)
    two = tmp_path / "two"
    args = arguments("fit", "videoar", two, *still, "--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.batch_size", 2)
    result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    expected, found = weights(one), weights(checkpoint(two))
    worst = max((value - found[name]).abs().max().item() for name, value in expected.items() if value.is_floating_point())
    assert worst < 1e-5, worst


SAME_ON_ALL = """
from lightning import Callback
class SameOnAll(Callback):
    def on_train_batch_end(self, trainer, module, *rest):
        state = {**dict(module.tokenizer.named_parameters()), **module.adversary.state_dict()}
        for name, value in state.items():
            everywhere = module.all_gather(value.detach().double())
            assert (everywhere[0] == everywhere[1]).all(), name
"""


@pytest.mark.slow
def test_two_processes_keep_tokenizer_and_critics_alike(tmp_path: Path) -> None:
    """The critics begin in mid-run; their averages are over both processes' clips."""
    (tmp_path / "same_on_all.py").write_text(SAME_ON_ALL)
    several = ("--trainer.devices", 2, "--trainer.strategy", "ddp_find_unused_parameters_true", "--trainer.max_steps", 3)
    args = arguments("fit", "tokenizer", tmp_path / "two", *ADVERSARIAL, *several, "--trainer.callbacks+=same_on_all.SameOnAll")
    paths = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=300, env=paths)
    assert result.returncode == 0, result.stderr[-2000:]
    assert torch.load(checkpoint(tmp_path / "two"), weights_only=True)["global_step"] == 3
