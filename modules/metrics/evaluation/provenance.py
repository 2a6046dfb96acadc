"""Provenance of measured values and runs: weights, command, code and library versions."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from modules.storage.checksums import source_hash

LIBRARIES = ("torch", "lightning", "torchmetrics", "numpy", "av", "safetensors", "jsonargparse")


def provenance(checkpoint: str | Path | None, **more: Any) -> dict[str, Any]:
    """Return the weights with their SHA-256, the software, and ``more``."""
    return {"checkpoint": checkpoint and str(checkpoint), "checkpoint_sha256": source_hash(checkpoint), **software(), **more}


def software() -> dict[str, Any]:
    """Return commit, command and versions as plain values; ``commit`` is None outside of a git repository."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "command": sys.argv,
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _git(*arguments: str) -> str | None:
    """Output of git for this project's code; None if it fails."""
    try:
        result = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
