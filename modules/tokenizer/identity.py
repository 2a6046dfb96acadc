"""Telling one tokenizer from all others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from modules.tokenizer.architecture import Architecture

HALVES = ("encoder", "decoder")


def identity_of(shape: Architecture, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """A SHA-256, in hexadecimal, of each half whose weights are there, with the architecture in it.

    Args:
        shape: The architecture, part of which the shapes of the weights do not tell.
        weights: State of a tokenizer, or of its decoder alone.
    """
    found = {}
    for half in HALVES:
        names = sorted(name for name in weights if name.startswith(f"{half}."))
        if names:
            whole = hashlib.sha256(json.dumps(asdict(shape)).encode())
            for name in names:
                value = weights[name].detach().cpu().contiguous()
                whole.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
                whole.update(value.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
            found[half] = whole.hexdigest()
    return found
