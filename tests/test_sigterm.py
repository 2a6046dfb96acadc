"""SIGTERM to any of several processes, or to what started them, saves one step of all, and the run goes on from there."""

from __future__ import annotations

import csv
import os
import signal
from contextlib import suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from test_faults import NEW, started, wait_for
from toy_runs import CONFIGS, TESTS, arguments, assert_same_result, run

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
STOP = ("--trainer.callbacks+=test_cli.StopAt", "--trainer.callbacks.graceful=True")


class Numbers(Callback):
    """Writes down the number of every process of a training, by its rank."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            (self.folder / f"part{trainer.global_rank}").write_text(str(os.getpid()))
            (self.folder / f"part{trainer.global_rank}").rename(self.folder / f"process{trainer.global_rank}")


def several(root: Path, overlay: str, *more: object) -> list[str]:
    """A long run of two processes."""
    shared = ("-c", CONFIGS / f"trainer/{overlay}.yaml", "--trainer.devices", 2, "--data.batch_size", 2)
    return arguments("fit", "videoar", root, *shared, *NEW, "--checkpoint.every_n_train_steps", 100000, *more)


def told_to_end(folder: Path, overlay: str, ranks: tuple[int, ...], launcher: tuple[str, ...] = ()) -> tuple[int, int, str]:
    """Starts a run, sends SIGTERM to processes of it (-1: to what was started), and waits.

    Returns:
        How it ended, the step of its checkpoint, and what it said.
    """
    numbers = ("--trainer.callbacks+=test_sigterm.Numbers", f"--trainer.callbacks.folder={folder}")
    process = started(several(folder / "run", overlay, *numbers), folder / "log.txt", {"PYTHONPATH": str(TESTS)}, launcher)
    files = [folder / f"process{rank}" for rank in range(2)]
    try:
        for file in files:
            wait_for(file, process)
        assert launcher or int(files[0].read_text()) == process.pid
        for rank in ranks:
            os.kill(process.pid if rank < 0 else int(files[rank].read_text()), signal.SIGTERM)
        code = process.wait(120)
    finally:
        kill(process, files)
    text = (folder / "log.txt").read_text()
    path = folder / "run/checkpoints/last.ckpt"
    assert path.exists(), text[-3000:]
    step = torch.load(path, weights_only=True)["global_step"]
    assert f"step {step} is saved as" in text and 1 <= step < 4000
    return code, step, text


def kill(process: Popen, files: list[Path]) -> None:
    process.kill()
    for file in files:
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("overlay", ["ddp", "fsdp"])
@pytest.mark.parametrize("ranks", [(0,), (1,), (1, 0)], ids=["first", "second", "both"])
def test_sigterm_to_any_process_saves_one_step_of_all(tmp_path: Path, ranks: tuple[int, ...], overlay: str) -> None:
    code, step, text = told_to_end(tmp_path, overlay, ranks)
    assert code == 128 + signal.SIGTERM, text[-2000:]
    run("fit", "videoar", tmp_path / "run", "--trainer.max_steps", step + 1, "--ckpt_path", "last")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1, -1], ids=["first", "second", "torchrun"])
def test_sigterm_under_torchrun(tmp_path: Path, rank: int) -> None:
    code, step, text = told_to_end(tmp_path, "ddp", (rank,), TORCHRUN)
    assert code == 1, text[-2000:]  # torchrun has no other
    run("fit", "videoar", tmp_path / "run", "--trainer.max_steps", step + 1, "--ckpt_path", "last")


def train_losses(folder: Path) -> dict[int, float]:
    rows = [row for file in sorted(folder.glob("log/*/metrics.csv")) for row in csv.DictReader(file.open())]
    return {int(row["step"]): float(row["train/loss"]) for row in rows if row.get("train/loss")}


@pytest.mark.slow
def test_shares_that_were_told_to_end_go_on_as_if_they_had_not_been(tmp_path: Path) -> None:
    _, step, _ = told_to_end(tmp_path, "fsdp", (1,))
    whole, parts = tmp_path / "whole", tmp_path / "run"
    for folder in (whole, parts):
        command = several(folder, "fsdp", "--ckpt_path", "last", *STOP, f"--trainer.callbacks.step={step + 3}")
        process = started(command, tmp_path / "log.txt", {"PYTHONPATH": str(TESTS)})
        assert process.wait(240) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    expected, found = train_losses(whole), train_losses(parts)
    assert list(expected) == list(range(step + 4)) and found == expected
    assert_same_result(*(folder / "checkpoints/last.ckpt" for folder in (whole, parts)))
