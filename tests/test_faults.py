"""What ends a run costs it at most the steps since the last checkpoint, and what cannot work is refused before it starts."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_cli import Stop
from toy_runs import ROOT, arguments, assert_same_result, run

from callbacks.checkpoint import last_checkpoint
from callbacks.checkpoint.atomic_checkpoint import AtomicCheckpointIO
from callbacks.checkpoint.last_checkpoint import check_folder
from modules.user_errors import user_error


def test_a_checkpoint_that_cannot_be_finished_leaves_the_one_before(tmp_path: Path) -> None:
    path, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
        with pytest.raises(ValueError, match=r"last\.ckpt could not be written: .*; .*last\.ckpt is still the previous one"):
            AtomicCheckpointIO().save_checkpoint({"step": 2, "weights": torch.zeros(2**20)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(path, weights_only=True) == {"step": 1} and [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_interrupted_write_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def interrupted(checkpoint: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise Stop

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(Stop):
        AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_a_folder_that_takes_no_checkpoints_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_folder(tmp_path / "new", 1000) is None
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in str(check_folder(tmp_path / "file" / "checkpoints", 1000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_500_000))
    assert check_folder(tmp_path, 700_000) is None
    complaint = str(check_folder(tmp_path, 1_000_000_000))
    assert "has 0.00 GB left and checkpoints need 2.00 GB" in complaint and "--checkpoint.dirpath" in complaint


def test_a_full_disk_is_noticed_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_checkpoint.shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(ValueError, match="GB left and checkpoints need"):
        run("fit", "videoar", tmp_path)
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_out_of_memory_says_what_to_change() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"),
    ):
        text = str(user_error(error))
        assert text.startswith("out of memory") and "--data.batch_size" in text and "activation_checkpointing" in text and "\n" not in text
    assert user_error(RuntimeError("something else")) is None


def started(args: list[str], log: Path, environment: dict[str, str] | None = None, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, *launcher, "train.py", *args],
            cwd=ROOT,
            stdout=file,
            stderr=file,
            env={**os.environ, **(environment or {})},
        )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    until = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


NEW = ("--trainer.max_steps", 4000, "--trainer.val_check_interval", 4000, "--checkpoint.every_n_train_steps", 100)
LONG = (*NEW, "--ckpt_path", "last")


@pytest.mark.slow
def test_sigterm_saves_the_step_and_says_that_the_run_is_not_finished(tmp_path: Path) -> None:
    process = started(arguments("fit", "videoar", tmp_path / "parts", *LONG), tmp_path / "log.txt")
    wait_for(tmp_path / "parts/checkpoints/last.ckpt", process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM, (tmp_path / "log.txt").read_text()[-2000:]
    step = torch.load(tmp_path / "parts/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert f"step {step} is saved as" in (tmp_path / "log.txt").read_text() and 100 <= step < 4000
    # The learning rate depends on the last step alone, and neither run reaches it.
    whole, parts, stop = tmp_path / "whole", tmp_path / "parts", f"--trainer.callbacks.step={step + 3}"
    for folder in (whole, parts):
        run("fit", "videoar", folder, *LONG, "--trainer.callbacks+=test_cli.StopAt", "--trainer.callbacks.graceful=True", stop)
    assert_same_result(*(folder / "checkpoints/last.ckpt" for folder in (whole, parts)))


FAKE_SCONTROL = '#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\n'
SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "videoar",
    "SLURM_NTASKS": "1",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}


@pytest.mark.slow
def test_slurm_requeues_and_goes_on(tmp_path: Path) -> None:
    """With a stand-in for SLURM's own command; Lightning takes its file only where no other checkpoint is asked for."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(FAKE_SCONTROL)
    scontrol.chmod(0o755)
    environment = {**SLURM, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = started(arguments("fit", "videoar", tmp_path / "run", *NEW), tmp_path / "log.txt", environment)
    wait_for(tmp_path / "run/checkpoints/last.ckpt", process)
    process.send_signal(signal.SIGUSR1)
    wait_for(tmp_path / "calls", process)
    process.kill()
    process.wait()
    assert (tmp_path / "calls").read_text() == "requeue 77\n"
    step = torch.load(tmp_path / "run/hpc_ckpt_1.ckpt", weights_only=True)["global_step"]
    process = started(
        arguments("fit", "videoar", tmp_path / "run", *NEW, "--trainer.max_steps", step + 2), tmp_path / "again.txt", environment
    )
    assert process.wait(240) == 0, (tmp_path / "again.txt").read_text()[-2000:]
    assert "hpc_ckpt_1.ckpt" in (tmp_path / "again.txt").read_text()
    assert torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"] == step + 2
