"""Training a transformer that does not fit one device: every device holds a share of every block (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from modules.storage import sharded_checkpoint
from modules.storage.tensor_file import unwritten
from modules.transformer import VideoARTransformer

# What is called on a transformer besides itself: the steps of sampling.
STEPS = ("start_decoding", "set_condition", "step", "commit_frame")


class FullySharded(ModelParallelStrategy):
    """Lightning's ``ModelParallelStrategy`` with all devices of all nodes in one group that shares out the model.

    A checkpoint is one file, the same as that of a run on one device: it goes on with any number of devices. The first process collects
    it in its memory, 12 bytes per trained parameter.

    Args:
        timeout_minutes: How long a process waits for the others.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        # Lightning's own "auto" makes a group per node.
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state on the first process, numbered as one device numbers it: in the order of the parameter groups.

        Lightning numbers parameters in the order of the model, which one device would take for others.
        """
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        assert self.model is not None
        state = get_optimizer_state_dict(self.model, plain(optimizer), options=options)
        return numbered(state) if self.global_rank == 0 else {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        # Lightning's own removes a folder of shards before the file that takes its place is there.
        super(ModelParallelStrategy, self).save_checkpoint(checkpoint, filepath, storage_options)
        if self.is_global_zero:
            sharded_checkpoint.sweep(Path(filepath))

    def remove_checkpoint(self, filepath: str | Path) -> None:
        path = Path(filepath)
        if not path.is_symlink():
            super().remove_checkpoint(filepath)
        elif self.is_global_zero:
            path.unlink()
            sharded_checkpoint.sweep(path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """A file, or a folder of shards of any number of processes.

        Raises:
            ValueError: If it is a folder of anything else, or of shards of another model.
        """
        path = Path(self.broadcast(checkpoint_path))
        assert self.model is not None
        if path.is_dir():
            return load_shards(self.model, [plain(optimizer) for optimizer in self.optimizers], path)
        # Mapped and not read: every process takes its shares only. Whatever is asked for, no pickle is run.
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            set_optimizer_state_dict(self.model, plain(optimizer), by_name(self.model, plain(optimizer), saved), options=options)
        return checkpoint


class FullyShardedFolders(FullySharded):
    """Shares that are also saved as shares: a checkpoint is a folder, and no process ever holds the whole of it.

    ``python -m scripts.consolidate`` makes it a file. Both strategies go on from files and from folders.

    Args:
        timeout_minutes: How long a process waits for the others.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(timeout_minutes)
        self._save_distributed_checkpoint = True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """A process's share of the state, by names."""
        assert self.model is not None
        return get_optimizer_state_dict(self.model, plain(optimizer), options=StateDictOptions(cpu_offload=True))  # type: ignore[return-value]

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """
        Raises:
            ValueError: If it cannot be written, as on a full disk; on all processes, and the one before is kept.
        """
        path = Path(self.broadcast(filepath))
        tensors, rest = sharded_checkpoint.split(checkpoint)
        unfinished = self._on_first(path, lambda: sharded_checkpoint.begin(path, rest))
        try:
            sharded_checkpoint.write_tensors(unfinished, tensors)
        except CheckpointException as error:
            raise unwritten(path, sharded_checkpoint.first_of(error)) from error
        self._on_first(path, lambda: sharded_checkpoint.publish(unfinished, path, checkpoint["global_step"]))

    def _on_first(self, path: Path, do: Callable[[], Any]) -> Any:
        """Have the first process do something, and all others know how it went."""
        result, problem = None, None
        if self.is_global_zero:
            try:
                result = do()
            except (OSError, RuntimeError) as error:
                problem = str(error).splitlines()[0]
        result, problem = self.broadcast((result, problem))
        if problem is not None:
            raise unwritten(path, problem)
        return result


def load_shards(model: nn.Module, optimizers: Sequence[Optimizer], folder: Path) -> dict[str, Any]:
    """Fill a model and its optimizers from a folder of shards; every process reads its own share.

    Returns:
        The rest of the checkpoint, and the model's state.

    Raises:
        ValueError: If the folder has no shards, or those of another model.
    """
    found, rest = sharded_checkpoint.entries(folder), sharded_checkpoint.read_rest(folder)
    states: dict[str, Any] = {
        "state_dict": get_model_state_dict(model),
        "optimizer_states": [get_optimizer_state_dict(model, optimizer) for optimizer in optimizers],
    }
    places = sharded_checkpoint.split(states)[0]
    needed = found if optimizers else {name for name in found if name.startswith("model/")}
    if others := sorted(set(needed) ^ set(places)):
        raise ValueError(f"{folder} is of another architecture: the model has {'a' if others[0] in places else 'no'} {others[0]}")
    for name, value in places.items():
        if name.endswith("_extra_state"):
            places[name] = sharded_checkpoint.empty(found[name])  # names of classes, of any length
        elif value.shape != found[name].size:
            raise ValueError(f"{folder} is of another architecture: {name} is {tuple(found[name].size)}, the model's {tuple(value.shape)}")
    sharded_checkpoint.read_tensors(folder, places)
    loaded = sharded_checkpoint.unite(places, rest)
    set_model_state_dict(model, loaded["state_dict"])
    for optimizer, state in zip(optimizers, loaded.get("optimizer_states", ()), strict=False):
        set_optimizer_state_dict(model, optimizer, state)
    return loaded


def numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer with numbers instead of names, in the order of its groups, as one device numbers parameters."""
    groups, rows = state["param_groups"], state["state"]
    number = {name: place for place, name in enumerate(name for group in groups for name in group["params"])}
    return {
        "state": {number[name]: values for name, values in rows.items()},
        "param_groups": [{**group, "params": [number[name] for name in group["params"]]} for group in groups],
    }


def plain(optimizer: Optimizer) -> Optimizer:
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def by_name(model: nn.Module, optimizer: Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The state of an optimizer that numbers parameters in the order of their groups, with their names instead."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    name = dict(zip((number for group in saved["param_groups"] for number in group["params"]), ordered, strict=True))
    return {
        "state": {name[number]: values for number, values in saved["state"].items()},
        "param_groups": [{**group, "params": [name[number] for number in group["params"]]} for group in saved["param_groups"]],
    }


def shard(transformer: VideoARTransformer, mesh: DeviceMesh) -> None:
    """Share a transformer out among the processes of a mesh, block by block; done once."""
    if hasattr(transformer, "set_requires_gradient_sync"):
        return
    for part in (*transformer.blocks, transformer.condition):
        fully_shard(part, mesh=mesh)
    fully_shard(transformer, mesh=mesh)
    for name in STEPS:
        register_fsdp_forward_method(transformer, name)
