"""Kills a training repeatedly, also while it writes a checkpoint, and compares the result with that of an uninterrupted run.

    python -m benchmarks.kill --kills 20 --out runs/kill

Every start is ``train.py fit ... --ckpt_path last`` in a process of its own, ended by SIGKILL: every second one when a random part of a
checkpoint is on the disk, the others at a random moment. Refused is a start that does not continue, a loss of more than the interval
between two checkpoints, and a final checkpoint (weights, optimizer, schedules) that differs from the uninterrupted run's in a single
bit.

``tests/stress_resume.py`` checks instead which clips every step sees when the numbers of processes and workers change. Here each run is
forked from a process that has imported everything, so a kill costs about a second.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning import Callback, LightningModule, Trainer

from scripts.cli import run
from train import main as train

ROOT = Path(__file__).parent.parent
TOY = ("configs/videoar.yaml", "tests/toy.yaml", "tests/toy_videoar.yaml")
CONTEXT = multiprocessing.get_context("fork")  # so that only the first process imports everything
REACHED = CONTEXT.Value("q", 0)  # steps that the current process has finished


class Report(Callback):
    """Tells the parent process how far the run is."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        REACHED.value = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        REACHED.value = trainer.global_step
        time.sleep(0.01)  # so that the parent, which waits for a moment to kill, keeps up


class HalfWritten:
    """Takes the place of ``torch.save``: from a step on, ends the process when a share of the checkpoint is written."""

    def __init__(self, step: float, share: float) -> None:
        self.step, self.share, self.save = step, share, torch.save

    def __call__(self, checkpoint: dict[str, Any], file: BinaryIO) -> None:
        if REACHED.value < self.step:
            self.save(checkpoint, file)
            return
        whole = io.BytesIO()
        self.save(checkpoint, whole)
        file.write(whole.getvalue()[: int(self.share * whole.tell())])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Kill:
    """One SIGKILL: steps that were done by then and those in the checkpoint; whether it cut a checkpoint short."""

    reached: int
    saved: int
    while_writing: bool


def stress(folder: Path, kills: int, steps: int, every: int, seed: int = 0) -> list[Kill]:
    """Train twice, once with ``kills`` kills.

    Raises:
        AssertionError: If a run does not go on, too much is lost, or the results differ.
    """
    chance, found = random.Random(seed), []
    start(folder / "whole", steps, every).join()
    for number in range(kills):
        moment = steps * (number + chance.random()) / (kills + 2)
        share = chance.random() if number % 2 == 0 else None
        found.append(kill(folder / "killed", steps, every, moment, share))
        assert found[-1].saved >= found[-1].reached - every, f"lost more than {every} steps: {found[-1]}"
    process = start(folder / "killed", steps, every)
    process.join()
    assert process.exitcode == 0, "the last start did not end well"
    compare(*(folder / name / "checkpoints/last.ckpt" for name in ("whole", "killed")))
    return found


def start(folder: Path, steps: int, every: int, half_written: HalfWritten | None = None) -> Any:
    """A training in a process of its own."""
    configs = [text for file in TOY for text in ("-c", str(ROOT / file))]
    options = {"trainer.default_root_dir": folder, "trainer.max_steps": steps, "checkpoint.every_n_train_steps": every}
    options |= {"trainer.val_check_interval": steps, "trainer.enable_model_summary": "false", "ckpt_path": "last"}
    args = ["fit", *configs, *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    REACHED.value = -1
    process = CONTEXT.Process(target=quietly, args=([*args, "--trainer.callbacks+=benchmarks.kill.Report"], folder, half_written))
    process.start()
    return process


def quietly(args: list[str], folder: Path, half_written: HalfWritten | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    torch.set_num_threads(1)
    if half_written:
        torch.save = half_written
    train(args)


def kill(folder: Path, steps: int, every: int, moment: float, share: float | None) -> Kill:
    """Go on with a run and kill it at a step and a fraction, or when this share of the next checkpoint is written."""
    unfinished, saved = (folder / "checkpoints" / name for name in (".last.ckpt.part", "last.ckpt"))
    unfinished.unlink(missing_ok=True)
    if share is None:
        process = start(folder, steps, every)
        wait(lambda: REACHED.value >= moment, process)
        time.sleep(0.02 * (moment % 1))
        os.kill(process.pid, signal.SIGKILL)
    else:
        process = start(folder, steps, every, HalfWritten(moment, share))
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"a start ended by itself with {process.exitcode}"
    step = torch.load(saved, weights_only=True)["global_step"] if saved.exists() else 0
    return Kill(REACHED.value, step, unfinished.exists())


def wait(condition: Any, process: Any) -> None:
    while not condition():
        assert process.is_alive(), f"a start ended by itself with {process.exitcode}"
        time.sleep(0.0005)


def compare(whole: Path, killed: Path) -> None:
    """Refuse results that differ."""
    first, second = (torch.load(path, weights_only=True) for path in (whole, killed))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(first[part], second[part]), f"{part} differs from the run that was not killed"


def same(one: Any, other: Any) -> bool:
    """True if two nested values are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return bool(one == other)


def kill_benchmark(*, out: Path, kills: int = 20, steps: int = 600, every: int = 5, seed: int = 0) -> None:
    """Kill a training repeatedly and compare its result with that of an uninterrupted run.

    Args:
        out: Folder of the two runs.
        kills: Number of kills.
        steps: Steps of the training.
        every: Steps between two checkpoints.
        seed: Seed of the moments at which it is killed.
    """
    found = stress(out, kills, steps, every, seed)
    (out / "kills.json").write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    cut, lost = sum(one.while_writing for one in found), max(one.reached - one.saved for one in found)
    sys.stdout.write(f"{len(found)} kills, {cut} of them while a checkpoint was written; at most {lost} steps lost; results equal\n")


if __name__ == "__main__":
    # Imported under its own name, as the runs import the callback: both must share the counter.
    from benchmarks.kill import kill_benchmark as command

    run(command)
