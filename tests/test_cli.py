"""The command line as a user types it, at toy sizes: every task, every stage, and what happens to bad input."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train import main

ROOT = Path(__file__).parent.parent
TINY_TOKENIZER = """
class_path: modules.tokenizer.VideoTokenizer
init_args: {bits: 8, channels: 24, multipliers: [1, 1, 1], blocks: 1, temporal_factor: 4}
"""
TINY = """
model:
  init_args:
    tokenizer:
      init_args: {bits: 8, channels: 24, multipliers: [1, 1, 1], blocks: 1, patch: 1, groups: 0}
data:
  init_args:
    clip: {frames: 5, height: 16, width: 16}
    batch_size: 4
    clips: 16
    held_out: 4
trainer:
  accelerator: cpu
  max_steps: 4
  val_check_interval: 2
  limit_val_batches: 1
  log_every_n_steps: 1
  enable_progress_bar: false
checkpoint:
  every_n_train_steps: 2
"""
TINY_AR = """
model:
  init_args:
    transformer:
      init_args: {width: 48, layers: 1, heads: 2}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "tiny_ar.yaml").write_text(TINY_AR)
    return tmp_path


def arguments(command: str, task: str, folder: Path, *more: object) -> list[str]:
    overlays = ["tiny.yaml"] + (["tiny_ar.yaml"] if task == "videoar" else [])
    args = [command, "-c", str(ROOT / f"configs/{task}.yaml")]
    for overlay in overlays:
        args += ["-c", str(folder / overlay)]
    return [*args, "--trainer.default_root_dir", str(folder / task), *map(str, more)]


def run(command: str, task: str, folder: Path, *more: object) -> None:
    main(arguments(command, task, folder, *more))


def checkpoint(folder: Path, task: str) -> Path:
    return folder / task / "checkpoints" / "last.ckpt"


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_pictures_then_video_then_two_stages_then_test_and_predict(tiny: Path) -> None:
    """The whole road of the demo, with the data overlay alone changing between the autoregressive stages."""
    images = ("-c", ROOT / "configs/stage/digits_images.yaml", "--data.batch_size", 4)
    run("fit", "tokenizer", tiny, *images)
    picture_weights = checkpoint(tiny, "tokenizer").rename(tiny / "image.ckpt")
    run("fit", "tokenizer", tiny, "--init_from", picture_weights)
    video_weights = checkpoint(tiny, "tokenizer").rename(tiny / "video.ckpt")
    run("test", "tokenizer", tiny, "--ckpt_path", video_weights)
    assert json.loads((tiny / "tokenizer/report.json").read_text())["metrics"]["test/psnr"] > 0

    run("fit", "videoar", tiny, "--init_from", video_weights)
    stage_one = checkpoint(tiny, "videoar").rename(tiny / "one.ckpt")
    run("fit", "videoar", tiny, "--init_from", stage_one, "--data.clip.frames", 9)
    after = weights(checkpoint(tiny, "videoar"))
    before = weights(video_weights)
    frozen = [name for name in before if name.startswith("tokenizer.")]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)

    run("validate", "videoar", tiny, "--ckpt_path", checkpoint(tiny, "videoar"))
    run("test", "videoar", tiny, "--ckpt_path", checkpoint(tiny, "videoar"), "--data.clip.frames", 9)
    report = json.loads((tiny / "videoar/report.json").read_text())
    assert set(report["judge"]) == {"real", "reconstructed", "generated"} and report["judge"]["real"]["clips"] == 4
    assert 0 <= report["metrics"]["test/accuracy/frame2_scale0"] <= 1

    prompts = tiny / "prompts.jsonl"
    prompts.write_text('{"condition": "3 left", "name": "short"}\n{"condition": "7 up", "name": "long", "frames": 21}\n')
    sample = ("-c", ROOT / "configs/sample.yaml", "--data.prompts", prompts, "--data.clip.frames", 9)
    size = ("--data.clip.height", 16, "--data.clip.width", 16, "--model.extension", '{"window": 9, "overlap": 5}')
    without_data = [arg for arg in arguments("predict", "videoar", tiny, *sample, *size, "--ckpt_path", checkpoint(tiny, "videoar"))]
    main(without_data)
    made = tiny / "videoar/samples"
    assert {path.suffix for path in made.glob("long.*")} == {".mp4", ".webp"} and (made / "contact_sheet.png").exists()
    rows = [json.loads(line) for line in (made / "manifest.jsonl").read_text().splitlines()]
    assert [(row["condition"], row["frames"]) for row in rows] == [("3 left", 9), ("7 up", 21)]
    assert rows[0]["checkpoint"].endswith("last.ckpt") and rows[0]["settings"]["temperature"] == 0.7


@pytest.mark.parametrize("task", ["tokenizer", "videoar"])
def test_a_resumed_run_equals_one_that_never_stopped(tiny: Path, task: str) -> None:
    whole, parts = tiny / "whole", tiny / "parts"
    steps = ("--trainer.max_steps", 4, "--trainer.default_root_dir")
    run("fit", task, tiny, *steps, whole)

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    cli = main([arg for arg in arguments("fit", task, tiny, *steps, parts)][1:], run=False)
    cli.trainer.callbacks.append(_StopAfter(3, Stop))
    with pytest.raises(Stop):
        cli.trainer.fit(cli.model, cli.datamodule)
    run("fit", task, tiny, *steps, parts, "--ckpt_path", "last")
    finished, resumed = (weights(folder / "checkpoints/last.ckpt") for folder in (whole, parts))
    assert all(torch.equal(value, resumed[name]) for name, value in finished.items())


class _StopAfter:
    """Placeholder replaced below; kept local to the test module."""


def test_two_processes_train_together(tiny: Path) -> None:
    args = arguments("fit", "videoar", tiny, "--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.batch_size", 2)
    result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-2000:]
    assert checkpoint(tiny, "videoar").exists()
