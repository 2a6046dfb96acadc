"""Opening a file of tensors that somebody else may have made, and writing one that tells when it was changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

CHECKSUM = "sha256"
META = "meta.pt"  # the file by which a folder of shards is known; see modules.storage.sharded_checkpoint


def open_tensors(path: str | Path) -> dict[str, Any]:
    """What a ``.safetensors``, ``.ckpt``, ``.pt`` or ``.pth`` file holds, on the CPU; code in it is never run.

    Returns:
        The file's mapping, of tensors or nested; empty for a file that holds no mapping.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read as one, is a folder of shards, or was changed since :func:`save_tensors` wrote it.
    """
    path = Path(path)
    check_joined(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    try:
        if path.suffix == ".safetensors":
            content, checksum = safetensors.torch.load_file(path), labels(path).get(CHECKSUM)
        else:
            content, checksum = torch.load(path, map_location="cpu", weights_only=True), None
    except Exception as error:  # pickle, zip and safetensors each have their own ways to fail
        raise unreadable(path) from error
    if checksum is not None and checksum != digest(content):
        raise ValueError(f"{path} is damaged: its tensors do not have the checksum that it was written with")
    return content if isinstance(content, dict) else {}


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> str:
    """Write a whole safetensors file, never a part of one; returns the checksum that it carries."""
    checksum = digest(tensors)
    unfinished = path.with_name(f".{path.name}.part")
    try:
        content = {name: tensor.contiguous() for name, tensor in tensors.items()}
        safetensors.torch.save_file(content, unfinished, labels_of(checksum))
        os.umask(hidden := os.umask(0))
        unfinished.chmod(0o666 & ~hidden)  # the library lets nobody else read
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return checksum


def save_whole(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint beside an older one and let it take that one's place, so that a whole one is there at all times.

    Raises:
        ValueError: If it cannot be written, as on a full disk; the one before is kept.
    """
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_flushed(checkpoint, unfinished)
        os.replace(unfinished, path)
        sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # the zip writer turns a full disk into a RuntimeError
        unfinished.unlink(missing_ok=True)
        raise unwritten(path, str(error).splitlines()[0]) from error


def save_flushed(content: Mapping[str, Any], path: Path) -> None:
    """Write what ``torch.load`` reads; it is on the disk when this returns."""
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def unwritten(path: Path, problem: str) -> ValueError:
    kept = f"; {path} is still the one from before" if path.exists() else ""
    return ValueError(f"the checkpoint {path} could not be written: {problem}{kept}")


def check_joined(path: Path) -> None:
    """Raises ``ValueError`` for a checkpoint that is a folder of shards, where a file is needed."""
    if (path / META).is_file():
        out = path.with_name("joined.ckpt")
        raise ValueError(f"{path} is a folder of shards: join it first with python -m scripts.consolidate {path} --out {out}")


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power failure."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def labels_of(checksum: str) -> dict[str, str]:
    """What is written beside the tensors of a file with this checksum."""
    return {"format": "pt", CHECKSUM: checksum}


def labels(path: Path) -> dict[str, str]:
    """What is written beside the tensors of a safetensors file; ``ValueError`` if it is none."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            return file.metadata() or {}
    except Exception as error:  # safetensors has its own type
        raise unreadable(path) from error


def unreadable(path: Path) -> ValueError:
    return ValueError(f"{path} is not a readable file of weights: neither a checkpoint nor safetensors")


def digest(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """SHA-256, in hexadecimal, of names, types, shapes and values, the order of which does not count, and of what is said about them."""
    whole = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        whole.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return whole.hexdigest()
