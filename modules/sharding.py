"""Training a transformer that does not fit one device: every device holds a share of every block (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from modules.transformer import VideoARTransformer

# What is called on a transformer besides itself: the steps of sampling.
STEPS = ("begin", "tell", "step", "remember")


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
        if self.global_rank != 0:
            return {}
        groups: Any = state["param_groups"]
        values_by_name: Any = state["state"]
        number = {name: place for place, name in enumerate(name for group in groups for name in group["params"])}
        return {
            "state": {number[name]: values for name, values in values_by_name.items()},
            "param_groups": [{**group, "params": [number[name] for name in group["params"]]} for group in groups],
        }

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """
        Raises:
            ValueError: If it is a folder of shards.
        """
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            raise ValueError(
                f"{path} is a folder of shards: python -m lightning.pytorch.utilities.consolidate_checkpoint {path} joins them"
            )
        # Mapped and not read: every process takes its shares only. Whatever is asked for, no pickle is run.
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        options = StateDictOptions(full_state_dict=True)
        assert self.model is not None
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, saved in zip(self.optimizers, checkpoint.get("optimizer_states", ()), strict=False):
            set_optimizer_state_dict(self.model, plain(optimizer), by_name(self.model, plain(optimizer), saved), options=options)
        return checkpoint


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
