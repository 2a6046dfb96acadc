"""Bytes of tensors and hashes that tell whether a file still holds what was written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

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


def text_tensor(text: str) -> Tensor:
    """A text as a tensor of bytes, for a file that holds tensors only."""
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
