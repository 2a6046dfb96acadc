"""What a run was made with, for the folder of its results."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer

LIBRARIES = ("torch", "lightning", "torchmetrics", "numpy", "av", "safetensors", "jsonargparse")


def environment(trainer: Trainer) -> dict[str, Any]:
    """Commit, versions, devices and command as plain values; ``commit`` is None outside of a git repository."""
    device = trainer.strategy.root_device
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": trainer.world_size,
        "nodes": trainer.num_nodes,
    }


def _git(*arguments: str) -> str | None:
    """What git says about this project's code."""
    try:
        found = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() if found.returncode == 0 else None
