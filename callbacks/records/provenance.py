"""Where a result comes from, in words a file can hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lightning import LightningModule, Trainer

from modules.metrics import origin as numbers_origin


def origin(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """``settings``, how the model samples (empty if it does not), and ``checkpoint``, the file its weights were read from, or None."""
    checkpoint = trainer.ckpt_path or getattr(pl_module, "weights_source", None)
    return {"settings": getattr(pl_module, "sampling_settings", dict)(), "checkpoint": checkpoint and str(checkpoint)}


def evaluation_origin(trainer: Trainer, pl_module: LightningModule, **more: Any) -> dict[str, Any]:
    """All that is needed to make a number of ``test`` again: weights by their hash, sampling, data, device, command, versions."""
    about, data = origin(trainer, pl_module), trainer.datamodule  # type: ignore[attr-defined]
    clip = getattr(data, "clip", None)
    used = {"data": type(data).__name__, "clip": asdict(clip) if clip else None, "device": str(pl_module.device)}
    return numbers_origin(about["checkpoint"], settings=about["settings"], **used, **more)
