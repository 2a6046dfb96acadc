"""Provenance of a run's results, as plain values for files."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

import torch
from lightning import LightningModule, Trainer

from modules.metrics.evaluation.provenance import provenance, software


def sampling_provenance(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return ``settings``, the sampling settings (empty if there are none), and ``checkpoint``, the file of the weights or None."""
    checkpoint = trainer.ckpt_path or getattr(pl_module, "weights_source", None)
    return {"settings": getattr(pl_module, "sampling_settings", dict)(), "checkpoint": checkpoint and str(checkpoint)}


def evaluation_provenance(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return everything needed to repeat a ``test``: weights by their hash, sampling settings, data, device, command, versions."""
    made_by, data = sampling_provenance(trainer, pl_module), trainer.datamodule  # type: ignore[attr-defined]
    clip = getattr(data, "clip", None)
    used = {"data": type(data).__name__, "clip": asdict(clip) if clip else None, "device": str(pl_module.device)}
    return provenance(made_by["checkpoint"], settings=made_by["settings"], **used)


def environment(trainer: Trainer) -> dict[str, Any]:
    """Return commit, versions, command and devices of a run."""
    device = trainer.strategy.root_device
    return {
        **software(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": trainer.world_size,
        "nodes": trainer.num_nodes,
    }
