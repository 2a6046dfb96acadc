"""Evaluation through the command line: one report, and the same values from two processes as from one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_runs import CONFIGS, ROOT, arguments, run

from modules.metrics import read_report
from train import main

SMALL = ("--trainer.callbacks.features.widths", "[4,4]", "--trainer.callbacks.protocol.frames", "5", "--data.held_out", "12")
MADE = ("-c", CONFIGS / "evaluate.yaml", *SMALL, "--trainer.callbacks.repeats", "2", "--trainer.limit_test_batches", "1")

pytestmark = pytest.mark.filterwarnings("ignore:a Fréchet distance of")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("fit", "tokenizer", tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def model(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run("fit", "videoar", tmp_path_factory.mktemp("videoar"), "--init_from", tokenizer)


def values_in(path: Path) -> dict[str, tuple[float, ...]]:
    return {f"{row.metric} {row.of}": row.values for evaluation in read_report(path)[0] for row in evaluation.measurements}


def test_a_tokenizer_is_compared_by_its_reconstructions(tokenizer: Path, tmp_path: Path) -> None:
    run("test", "tokenizer", tmp_path, *MADE, "--ckpt_path", tokenizer)
    (whole, found), provenance = read_report(tmp_path / "report.json")
    assert [row.of for row in found.measurements] == 2 * ["real", "static", "reconstructed"]
    assert all(row.clips in (6, 12) for row in found.measurements)
    assert provenance["checkpoint"] == str(tokenizer) and len(provenance["checkpoint_sha256"]) == 64
    names = {f"{row.metric} {row.of}" for row in whole.measurements}
    assert {"psnr ", "bits/effective_per_clip ", "digit_all real"} <= names and not any("Fréchet" in name for name in names)


def test_lpips_is_measured_when_its_weights_are_given(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: object, shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
        return {name: torch.rand(shape) for name, shape in shapes.items()}

    monkeypatch.setattr("modules.tokenizer.losses.perceptual._read", read)
    perceptual = ("--model.perceptual", "PerceptualLoss", "--model.perceptual.backbone", "vgg16.pth", "--data.held_out", 4)
    run("test", "tokenizer", tmp_path, *perceptual, "--ckpt_path", tokenizer)
    assert values_in(tmp_path / "report.json")["lpips_vgg "][0] > 0


@pytest.mark.slow
def test_two_processes_evaluate_like_one(model: Path, tmp_path: Path) -> None:
    one = arguments("test", "videoar", tmp_path / "one", *MADE, "--ckpt_path", model, "--trainer.callbacks.training_clips", 7)
    main(one)
    two = arguments("test", "videoar", tmp_path / "two", *MADE, "--ckpt_path", model, "--trainer.callbacks.training_clips", 7)
    two += [
        "--trainer.devices",
        "2",
        "--trainer.strategy",
        "ddp",
        "--data.batch_size",
        "3",
        "--trainer.callbacks.cache",
        str(tmp_path / "kept"),
    ]
    for _ in range(2):
        result = subprocess.run([sys.executable, "train.py", *two], cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-2000:]
        alone, together = (values_in(tmp_path / name / "report.json") for name in ("one", "two"))
        assert alone.keys() == together.keys() and any("variety" in name for name in alone) and any("nearest" in name for name in alone)
        for name, values in alone.items():
            assert together[name] == pytest.approx(values, rel=1e-4, abs=1e-6), name


def test_rollouts_of_a_model(model: Path, tmp_path: Path) -> None:
    small = ("--trainer.callbacks.frames", 13, "--trainer.callbacks.clips", 3, "--trainer.limit_test_batches", 1)
    run("test", "videoar", tmp_path, "-c", CONFIGS / "evaluate_rollouts.yaml", *small, "--ckpt_path", model)
    assert len((tmp_path / "rollouts" / "drift.csv").read_text().splitlines()) == 14
    assert "sharpness (levels), frames 8-12 generated" in values_in(tmp_path / "report.json")
