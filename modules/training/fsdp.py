"""FSDP2 strategies for a transformer that does not fit on one device: every device holds a shard of every block."""

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
from modules.storage.atomic_files import unwritable
from modules.transformer import VideoARTransformer

# The methods called on a transformer other than forward: the steps of sampling.
FORWARD_METHODS = ("start_decoding", "set_condition", "step", "commit_frame")


class FullySharded(ModelParallelStrategy):
    """Lightning's ``ModelParallelStrategy`` with the model sharded over all devices of all nodes.

    A checkpoint is one file, identical to that of a run on one device, so the run can be resumed with any number of devices. The first
    process gathers it in memory, 12 bytes per trained parameter.

    Args:
        timeout_minutes: Minutes that a process waits for the others.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(save_distributed_checkpoint=False, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        # Lightning's "auto" creates one group per node.
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the full state on the first process, with parameters numbered in the order of the parameter groups.

        This is the numbering of a single device. Lightning numbers them in the order of the model, which a single device would misread.
        """
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        assert self.model is not None
        state = get_optimizer_state_dict(self.model, plain(optimizer), options=options)
        return numbered(state) if self.global_rank == 0 else {}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        # Lightning's own method would remove a sharded checkpoint before the file that replaces it is complete.
        super(ModelParallelStrategy, self).save_checkpoint(checkpoint, filepath, storage_options)
        if self.is_global_zero:
            sharded_checkpoint.remove_unused(Path(filepath))

    def remove_checkpoint(self, filepath: str | Path) -> None:
        path = Path(filepath)
        if not path.is_symlink():
            super().remove_checkpoint(filepath)
        elif self.is_global_zero:
            path.unlink()
            sharded_checkpoint.remove_unused(path)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a file, or a sharded checkpoint of any number of processes.

        Raises:
            ValueError: If a folder is not a sharded checkpoint, or is one of another model.
        """
        path = Path(self.broadcast(checkpoint_path))
        assert self.model is not None
        if path.is_dir():
            return load_shards(self.model, [plain(optimizer) for optimizer in self.optimizers], path)
        # Memory-mapped, so that every process reads only its shards. weights_only regardless of the argument, so that no code is run.
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            set_optimizer_state_dict(self.model, plain(optimizer), by_name(self.model, plain(optimizer), saved), options=options)
        return checkpoint


class FullyShardedFolders(FullySharded):
    """:class:`FullySharded` with sharded checkpoints: folders that no process ever holds in memory as a whole.

    ``python -m scripts.consolidate`` merges one into a file. Both strategies resume from files and from folders.

    Args:
        timeout_minutes: Minutes that a process waits for the others.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        super().__init__(timeout_minutes)
        self._save_distributed_checkpoint = True

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return this process's shard of the state, with parameters by name."""
        assert self.model is not None
        return get_optimizer_state_dict(self.model, plain(optimizer), options=StateDictOptions(cpu_offload=True))  # type: ignore[return-value]

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """
        Raises:
            ValueError: On all processes, if the checkpoint cannot be written, for example on a full disk; the previous one is kept.
        """
        path = Path(self.broadcast(filepath))
        tensors, rest = sharded_checkpoint.split(checkpoint)
        temporary = self._on_first(path, lambda: sharded_checkpoint.begin(path, rest))
        try:
            sharded_checkpoint.write_tensors(temporary, tensors)
        except CheckpointException as error:
            raise unwritable(path, sharded_checkpoint.first_failure(error)) from error
        self._on_first(path, lambda: sharded_checkpoint.publish(temporary, path, checkpoint["global_step"]))

    def _on_first(self, path: Path, action: Callable[[], Any]) -> Any:
        """Call ``action`` on the first process and return its result, or raise its error, on all of them."""
        result, problem = None, None
        if self.is_global_zero:
            try:
                result = action()
            except (OSError, RuntimeError, ValueError) as error:
                problem = str(error).splitlines()[0]
        result, problem = self.broadcast((result, problem))
        if problem is not None:
            raise unwritable(path, problem)
        return result


def load_shards(model: nn.Module, optimizers: Sequence[Optimizer], folder: Path) -> dict[str, Any]:
    """Fill a model and its optimizers from a sharded checkpoint; every process reads its own shards.

    Returns:
        The whole checkpoint, with this process's shards of the tensors.

    Raises:
        ValueError: If the folder is not a sharded checkpoint, or one of another model.
    """
    found, rest = sharded_checkpoint.entries(folder), sharded_checkpoint.read_rest(folder)
    states: dict[str, Any] = {
        "state_dict": get_model_state_dict(model),
        "optimizer_states": [get_optimizer_state_dict(model, optimizer) for optimizer in optimizers],
    }
    tensors = sharded_checkpoint.split(states)[0]
    needed = found if optimizers else {name for name in found if name.startswith("model/")}
    if others := sorted(set(needed) ^ set(tensors)):
        raise ValueError(f"{folder} is of another architecture: the model has {'a' if others[0] in tensors else 'no'} {others[0]}")
    for name, value in tensors.items():
        if name.endswith("_extra_state"):
            tensors[name] = sharded_checkpoint.empty(found[name])  # class names, of any length
        elif value.shape != found[name].size:
            raise ValueError(f"{folder} is of another architecture: {name} is {tuple(found[name].size)}, the model's {tuple(value.shape)}")
    sharded_checkpoint.read_tensors(folder, tensors)
    loaded = sharded_checkpoint.join(tensors, rest)
    set_model_state_dict(model, loaded["state_dict"])
    for optimizer, state in zip(optimizers, loaded.get("optimizer_states", ()), strict=False):
        set_optimizer_state_dict(model, optimizer, state)
    return loaded


def numbered(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with indices instead of parameter names, in the order of its groups as on a single device."""
    groups, rows = state["param_groups"], state["state"]
    numbers = {name: number for number, name in enumerate(name for group in groups for name in group["params"])}
    return renamed(rows, groups, numbers)


def by_name(model: nn.Module, optimizer: Optimizer, saved: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with parameter names instead of the indices of :func:`numbered`."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    numbers = (number for group in saved["param_groups"] for number in group["params"])
    return renamed(saved["state"], saved["param_groups"], dict(zip(numbers, ordered, strict=True)))


def renamed(rows: Mapping[Any, Any], groups: Sequence[Mapping[str, Any]], names: Mapping[Any, Any]) -> dict[str, Any]:
    """Return an optimizer's state with renamed parameters."""
    return {
        "state": {names[parameter]: values for parameter, values in rows.items()},
        "param_groups": [{**group, "params": [names[parameter] for parameter in group["params"]]} for group in groups],
    }


def plain(optimizer: Optimizer) -> Optimizer:
    """Return the optimizer without Lightning's wrapper."""
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def shard(transformer: VideoARTransformer, mesh: DeviceMesh) -> None:
    """Shard a transformer over the processes of a mesh, block by block; does nothing if it is sharded already."""
    if hasattr(transformer, "set_requires_gradient_sync"):
        return
    for part in (*transformer.blocks, transformer.condition):
        fully_shard(part, mesh=mesh)
    fully_shard(transformer, mesh=mesh)
    for name in FORWARD_METHODS:
        register_fsdp_forward_method(transformer, name)
