"""Where a result comes from, in words a file can hold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer


def origin(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """``settings``, how the model samples (empty if it does not), and ``checkpoint``, the file its weights were read from, or None."""
    checkpoint = trainer.ckpt_path or getattr(pl_module, "weights_source", None)
    return {"settings": getattr(pl_module, "sampling_settings", dict)(), "checkpoint": checkpoint and str(checkpoint)}


def digest(checkpoint: str | None) -> str | None:
    """SHA-256 of a file of weights, the same wherever the file lies; None if it is not one file."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    with open(checkpoint, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
