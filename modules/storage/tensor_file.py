"""Reading files of tensors from untrusted sources, and writing files that carry a checksum."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from modules.storage.atomic_files import atomic_write
from modules.storage.checksums import digest

CHECKSUM = "sha256"
META = "meta.pt"  # the file that marks a folder as a sharded checkpoint; see modules.storage.sharded_checkpoint


def open_tensors(path: str | Path) -> dict[str, Any]:
    """Return the content of a ``.safetensors``, ``.ckpt``, ``.pt`` or ``.pth`` file, on the CPU, without running code from it.

    Returns:
        The file's mapping of names to tensors, possibly nested; empty for a file that does not hold a mapping.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not readable, is a sharded checkpoint, or was changed since :func:`save_tensors` wrote it.
    """
    path = Path(path)
    check_is_file(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    try:
        if path.suffix == ".safetensors":
            content, checksum = safetensors.torch.load_file(path), file_metadata(path).get(CHECKSUM)
        else:
            content, checksum = torch.load(path, map_location="cpu", weights_only=True), None
    except Exception as error:  # pickle, zip and safetensors all raise exceptions of their own
        raise unreadable(path) from error
    if checksum is not None and checksum != digest(content):
        raise ValueError(f"{path} is damaged: its tensors do not match the checksum it was written with")
    return content if isinstance(content, dict) else {}


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write a safetensors file atomically, and return the checksum that it carries."""
    checksum = digest(tensors)
    with atomic_write(path) as temporary:
        content = {name: tensor.contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(content, temporary, metadata_with(checksum))
        os.umask(mask := os.umask(0))
        temporary.chmod(0o666 & ~mask)  # safetensors makes files that only their owner can read
    return checksum


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint atomically: the previous one is kept until the new one is complete.

    Raises:
        ValueError: If it cannot be written, for example on a full disk; the previous one is kept.
    """
    # Written through a Python file, whose error torch passes on; its own file writer does not name the cause.
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        torch.save(checkpoint, file)


def check_is_file(path: Path) -> None:
    """Raises ``ValueError`` for a sharded checkpoint, where a file is needed."""
    if (path / META).is_file():
        out = path.with_name("joined.ckpt")
        raise ValueError(f"{path} is a folder of shards: join it first with python -m scripts.consolidate {path} --out {out}")


def metadata_with(checksum: str) -> dict[str, str]:
    """Return the metadata of a safetensors file with this checksum."""
    return {"format": "pt", CHECKSUM: checksum}


def file_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file.

    Raises:
        ValueError: If it is not a safetensors file.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except Exception as error:  # safetensors has its own exception
        raise unreadable(path) from error


def unreadable(path: Path) -> ValueError:
    return ValueError(f"{path} is not a readable file of weights: neither a checkpoint nor safetensors")
