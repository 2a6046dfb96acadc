"""A checkpoint as a folder of shards: whole or not there, for any number of processes, joined into a file, and never code."""

import os
import pickle
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from test_scale import STILL, STOP, alone, assert_equal, losses, together
from torch import nn
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from toy_runs import CONFIGS, ROOT, TESTS, arguments, assert_same_result, run

from callbacks.checkpoint.last_checkpoint import check_folder
from modules import load
from modules.init_from import load_weights
from modules.storage import sharded_checkpoint
from modules.training.fsdp import FullySharded, FullyShardedFolders, load_shards
from scripts.cli import run as command
from scripts.consolidate import consolidate
from scripts.export import export


class KilledWhileWriting(Callback):
    """Ends the first process like a lost machine when its second checkpoint is all there but for the table of contents."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            sharded_checkpoint.FileSystemWriter.finish = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that was killed at step 4 and has a checkpoint of step 2."""
    folder = tmp_path_factory.mktemp("killed")
    several = ("-c", CONFIGS / "trainer/fsdp_sharded.yaml", "--trainer.devices", 2, "--data.batch_size", 2)
    args = arguments("fit", "videoar", folder, *several, *STILL, "--trainer.callbacks+=test_shards.KilledWhileWriting")
    paths = {**os.environ, "PYTHONPATH": str(TESTS)}
    result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=300, env=paths)
    assert result.returncode == -signal.SIGKILL, result.stderr[-3000:]
    names = {path.name for path in (folder / "checkpoints").iterdir()}
    assert names == {"last.ckpt", "last.shards2", ".last.ckpt.shards"}, names
    return folder


def copy(run: Path, to: Path) -> Path:
    subprocess.run(["cp", "-a", run, to], check=True)
    return to


@pytest.mark.slow
def test_shards_joined_are_the_file_of_a_run_without(killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, whole = copy(killed, tmp_path / "folder"), together(tmp_path / "whole", "fsdp", *STOP)
    joined = folder / "checkpoints/joined.ckpt"
    command(consolidate, [str(folder / "checkpoints/last.ckpt"), "--out", str(joined)])
    assert_same_result(whole, joined)
    assert torch.load(joined, weights_only=True).keys() == torch.load(whole, weights_only=True).keys()
    with pytest.raises(SystemExit, match="exists already"):
        command(consolidate, [str(folder / "checkpoints/last.ckpt"), "--out", str(joined)])
    export(joined, out=folder / "model.safetensors")
    load(folder / "model.safetensors").generate("3 left")
    run("fit", "videoar", tmp_path / "new", "--init_from", joined)


@pytest.mark.slow
def test_shards_of_two_processes_go_on_as_those_of_one(killed: Path, tmp_path: Path) -> None:
    """After a kill in the midst of writing, and with another strategy than before."""
    one, folder = tmp_path / "one", copy(killed, tmp_path / "folder")
    alone(one)
    for error in (lambda: alone(folder), lambda: load(folder), lambda: run("test", "videoar", folder, *last(folder))):
        with pytest.raises(ValueError, match=r"last\.ckpt is a folder of shards: join it first with python -m scripts\.consolidate"):
            error()
    several = ("-c", CONFIGS / "trainer/fsdp_sharded.yaml", "--trainer.devices", 1)
    args = arguments("fit", "videoar", folder, *several, *STILL)
    result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "last.shards4"}
    consolidate(folder / "checkpoints/last.ckpt", out=tmp_path / "joined/checkpoints/last.ckpt")
    assert losses(folder) == pytest.approx(losses(one), abs=1e-4)
    assert_equal(one, tmp_path / "joined")


def last(folder: Path) -> tuple[str, Path]:
    return "--ckpt_path", folder / "checkpoints/last.ckpt"


@pytest.mark.slow
def test_a_run_goes_from_shards_to_a_file(killed: Path, tmp_path: Path) -> None:
    folder = copy(killed, tmp_path / "folder")
    together(folder, "fsdp")
    (path,) = (folder / "checkpoints").iterdir()
    assert path.name == "last.ckpt" and torch.load(path, weights_only=True)["global_step"] == 4


def content(step: int, size: int = 3) -> dict[str, Any]:
    """A checkpoint by names, as processes with shares have it."""
    state = {"weight": {"step": torch.tensor(1.0), "exp_avg": torch.full((size, 2), float(step))}}
    optimizer = {"state": state, "param_groups": [{"lr": 0.1, "params": ["weight"]}]}
    weights = {"weight": torch.full((size, 2), float(step)), "bias": torch.full((size,), float(step))}
    return {"global_step": step, "state_dict": weights, "optimizer_states": [optimizer]}


def save(step: int, path: Path, size: int = 3) -> None:
    FullyShardedFolders().save_checkpoint(content(step, size), path)


def step_of(path: Path) -> float:
    model = nn.Linear(2, 3)
    assert load_shards(model, [], path)["global_step"] == model.weight[0, 0].item()
    return model.weight[0, 0].item()


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({}, path)
    for step in (1, 2, 2, 2, 3):
        save(step, path)
        assert step_of(path) == step and len(list(tmp_path.iterdir())) == 2
    size, folder = sum(file.stat().st_size for file in path.iterdir()), path.resolve()
    path.unlink()
    folder.rename(path)  # as a tool leaves it that copies and follows links
    save(4, path)
    assert step_of(path) == 4 and len(list(tmp_path.iterdir())) == 2
    assert check_folder(tmp_path, size) is None
    FullySharded().remove_checkpoint(path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_finished_leaves_the_one_before(tmp_path: Path) -> None:
    path, limits = tmp_path / "last.ckpt", resource.getrlimit(resource.RLIMIT_FSIZE)
    save(1, path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
        with pytest.raises(ValueError, match=r"last\.ckpt could not be written: .*; .*last\.ckpt is still the previous one"):
            save(2, path, 2**16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert step_of(path) == 1
    save(3, path)
    assert step_of(path) == 3 and len(list(tmp_path.iterdir())) == 2


def test_what_was_split_is_united() -> None:
    whole = content(2)
    united = sharded_checkpoint.join(*sharded_checkpoint.split(whole))
    assert united.keys() == whole.keys() and all(
        torch.equal(value, whole["state_dict"][name]) for name, value in united["state_dict"].items()
    )
    assert united["optimizer_states"][0]["param_groups"] == whole["optimizer_states"][0]["param_groups"]
    whole["optimizer_states"][0]["state"]["weight"]["order"] = 2
    with pytest.raises(ValueError, match="holds tensors only, and 0/weight/order is not a tensor"):
        sharded_checkpoint.split(whole)


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_shards_run_no_code(tmp_path: Path) -> None:
    path, mark = tmp_path / "last.ckpt", tmp_path / "mark"
    save(1, path)
    for file in (".metadata", "meta.pt"):
        honest = (path / file).read_bytes()
        if file == ".metadata":
            (path / file).write_bytes(pickle.dumps(Evil(mark)))
        else:
            torch.save({"global_step": Evil(mark)}, path / file)
        for read in (lambda: consolidate(path, out=tmp_path / "out.ckpt"), lambda: load_shards(nn.Linear(2, 3), [], path)):
            with pytest.raises(ValueError, match=rf"{file} (does not describe a sharded checkpoint|is not a readable file)"):
                read()
        assert not mark.exists() and not (tmp_path / "out.ckpt").exists()
        (path / file).write_bytes(honest)
    # Torch reads what is no tensor with a pickle of its own.
    (path / ".metadata").write_bytes(pickle.dumps(Metadata({"model/weight": BytesStorageMetadata()})))
    with pytest.raises(ValueError, match="BytesStorageMetadata"):
        sharded_checkpoint.entries(path)


def test_shards_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(1, path)
    with pytest.raises(ValueError, match="last.ckpt is of another architecture: the model has no model/bias"):
        load_shards(nn.Linear(2, 3, bias=False), [], path)
    with pytest.raises(ValueError, match=r"model/weight is \(3, 2\), the model's \(3, 4\)"):
        load_shards(nn.Linear(4, 3), [], path)
    with pytest.raises(ValueError, match="join it first"):
        load_weights(nn.Linear(2, 3), path)
    with pytest.raises(SystemExit, match=r"is not a folder of shards: it has no meta\.pt"):
        command(consolidate, [str(tmp_path), "--out", str(tmp_path / "out.ckpt")])
    (path / "__0_0.distcp").unlink()
    with pytest.raises(SystemExit, match="__0_0.distcp"):
        command(consolidate, [str(path), "--out", str(tmp_path / "out.ckpt")])
