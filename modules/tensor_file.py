"""Opening a file of tensors that somebody else may have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch


def open_tensors(path: str | Path) -> dict[str, Any]:
    """What a ``.safetensors``, ``.ckpt``, ``.pt`` or ``.pth`` file holds, on the CPU; code in it is never run.

    Returns:
        The file's mapping, of tensors or nested; empty for a file that holds no mapping.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors each have their own ways to fail
        raise ValueError(f"{path} is not a readable file of weights: neither a checkpoint nor safetensors") from error
    return content if isinstance(content, dict) else {}
