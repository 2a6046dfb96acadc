"""SHA-256 checksums of tensors, files and caches, and the bytes that they are computed from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor


def raw(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor on the CPU."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def digest_of(tensor: Tensor) -> bytes:
    """Return the SHA-256 of a tensor on the CPU."""
    return hashlib.sha256(raw(tensor)).digest()


def digest(tensors: Mapping[str, Tensor], about: str = "") -> str:
    """Return the SHA-256, in hexadecimal, of names, dtypes, shapes and values, in any order, and of a description of them."""
    whole = hashlib.sha256(about.encode())
    for name, tensor in sorted(tensors.items()):
        value = tensor.detach().cpu().contiguous()
        whole.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    return whole.hexdigest()


def seal_of(metadata: dict[str, str], shape: object, index: Sequence[Tensor]) -> bytes:
    """Return one checksum of a cache: of its metadata, the shape of its content (as JSON), and the tensors that hold its checksums."""
    seal = hashlib.sha256(json.dumps([sorted(metadata.items()), shape, [len(tensor) for tensor in index]]).encode())
    for tensor in index:
        seal.update(raw(tensor))
    return seal.digest()


def file_hash(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_hash(source: str | Path | None) -> str | None:
    """Return the SHA-256 of a file of weights, and None for weights that do not come from one file."""
    return file_hash(source) if source is not None and Path(source).is_file() else None


def text_tensor(text: str) -> Tensor:
    """Return a text as a ``uint8`` tensor, for files that hold tensors only."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
