"""Where a result comes from, in words a file can hold."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer


def origin(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """``settings``, how the model samples (empty if it does not), and ``checkpoint``, the file its weights were read from, or None."""
    checkpoint = trainer.ckpt_path or getattr(pl_module, "weights_source", None)
    return {"settings": getattr(pl_module, "sampling_settings", dict)(), "checkpoint": checkpoint and str(checkpoint)}
