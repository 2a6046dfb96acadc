"""What a run says of itself: how it began, how fast it is, what it was made with, in whichever logger."""

import csv
import json
import subprocess
from pathlib import Path

import pytest
import torch
from toy_runs import ROOT, checkpoint, compose, run

from callbacks import LogSpeed
from callbacks.log_speed import counts
from callbacks.records.run_summary import summary_lines
from modules.geometry import Clip
from modules.planning import flops_of

SHORT = ("--trainer.max_steps", 4, "--trainer.val_check_interval", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run(
        "fit",
        "videoar",
        folder,
        *SHORT,
        "--trainer.callbacks+=LogSpeed",
        "--trainer.callbacks.tflops=0.001",
        "--trainer.callbacks.window=2",
    )
    return folder


def test_speed_and_memory_are_logged(folder: Path) -> None:
    with next(folder.glob("log/*/metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert len(rows) == 4
    for row in rows:
        clips, tokens, tflops, mfu, memory = (
            float(row[f"speed/{name}"]) for name in ("clips_per_second", "tokens_per_second", "tflops", "mfu", "memory_gib")
        )
        assert clips > 0 and tokens / clips == pytest.approx(2 * (1 + 4 + 9 + 16), rel=1e-4)
        assert mfu == pytest.approx(tflops / 0.001, rel=1e-4) and 0.1 < memory < 30


def test_work_is_that_of_the_plan(tmp_path: Path) -> None:
    model = compose("videoar", tmp_path).model
    batch = {"index": torch.arange(3), "video": torch.zeros(3, 3, 5, 16, 16)}
    with torch.device("meta"):
        meta = compose("videoar", tmp_path).model
    work = flops_of(meta.tokenizer, meta.transformer, Clip(5, 16, 16))
    assert counts(model, batch) == (3, 3 * work.tokens, 3 * work.training)
    assert counts(compose("tokenizer", tmp_path).model, batch) == (3, 0, 0)


def test_impossible_settings_are_refused() -> None:
    for settings in ({"tflops": 0.0}, {"window": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            LogSpeed(**settings)


def test_a_run_says_what_it_was_made_with(folder: Path) -> None:
    made = json.loads((folder / "fit.environment.json").read_text())
    assert made["commit"] == subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert made["libraries"]["torch"] == torch.__version__.split("+")[0] or made["libraries"]["torch"] == torch.__version__
    assert made["processes"] == made["nodes"] == 1 and made["device"] == "cpu" and (folder / "fit.yaml").exists()


def test_a_continued_run_says_its_real_learning_rate(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run("fit", "videoar", tmp_path, *SHORT, "--init_from", checkpoint(folder), "--model.optimizer.lr", 0.002, "--model.warmup_steps", 0)
    text = caplog.text
    assert f"starts from the weights of {checkpoint(folder)}; until step 4" in text
    assert "AdamW, learning rate 0.002 at this step, peak 0.002" in text
    assert "4 clips per step (4 x 1 batches x 1 processes) of Clip(frames=5, height=16, width=16" in text
    caplog.clear()
    with caplog.at_level("INFO"):
        run("fit", "videoar", tmp_path, "--trainer.max_steps", 5, "--model.optimizer.lr", 0.5, "--ckpt_path", "last")
    assert "resumes at step 4 from" in caplog.text and "peak 0.002" in caplog.text and "peak 0.5" not in caplog.text


def test_nothing_is_announced_without_an_optimizer(tmp_path: Path) -> None:
    cli = compose("videoar", tmp_path)
    cli.trainer.datamodule = cli.datamodule
    cli.trainer.strategy.connect(cli.model)
    assert summary_lines(cli.trainer, cli.model)[0] == "training LitVideoAR: starts from random weights; until step 2"


@pytest.mark.slow
def test_wandb_without_a_network(tmp_path: Path) -> None:
    logger = ("--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true", "--trainer.logger.save_dir", tmp_path / "wandb")
    run("fit", "videoar", tmp_path / "run", *logger)
    assert list((tmp_path / "wandb").rglob("*.wandb"))


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="pip install -e '.[tensorboard]'")
    logger = ("--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", tmp_path / "board")
    run("fit", "videoar", tmp_path / "run", *logger)
    assert list((tmp_path / "board").rglob("events.out.*"))
