"""Bytes of tensors and hashes that tell whether a file still holds what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor


def raw(tensor: Tensor) -> bytes:
    """The bytes of a tensor on the CPU."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def digest_of(tensor: Tensor) -> bytes:
    """The SHA-256 of a tensor on the CPU."""
    return hashlib.sha256(raw(tensor)).digest()


def seal_of(metadata: dict[str, str], shape: object, index: Sequence[Tensor]) -> bytes:
    """One hash of a file's metadata, of the shape of its content (as JSON), and of the tensors that have the hashes of the content."""
    seal = hashlib.sha256(json.dumps([sorted(metadata.items()), shape, [len(tensor) for tensor in index]]).encode())
    for tensor in index:
        seal.update(raw(tensor))
    return seal.digest()


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a file.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_hash(source: str | Path | None) -> str | None:
    """The SHA-256 of a file of weights, the same wherever the file lies; None if they are not of one file."""
    return file_hash(source) if source is not None and Path(source).is_file() else None


def text_tensor(text: str) -> Tensor:
    """A text as a tensor of bytes, for a file that holds tensors only."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
