"""Telling one tokenizer from all others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from modules.storage.checksums import digest
from modules.tokenizer.architecture import Architecture

HALVES = ("encoder", "decoder")


def identity_of(shape: Architecture, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """A SHA-256, in hexadecimal, of each half whose weights are there, with the architecture in it.

    Args:
        shape: The architecture, part of which the shapes of the weights do not tell.
        weights: State of a tokenizer, or of its decoder alone.
    """
    halves = {half: {name: weights[name] for name in weights if name.startswith(f"{half}.")} for half in HALVES}
    return {half: digest(own, json.dumps(asdict(shape))) for half, own in halves.items() if own}
