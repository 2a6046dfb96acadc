"""Fingerprint of a tokenizer's weights and architecture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict

from torch import Tensor

from modules.storage.checksums import digest
from modules.tokenizer.architecture import Architecture

HALVES = ("encoder", "decoder")


def fingerprint_of(shape: Architecture, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """SHA-256, in hexadecimal, of encoder and decoder, of those present in ``weights``.

    Args:
        shape: The architecture, hashed with the weights, whose shapes do not determine all of it.
        weights: State dict of a tokenizer or of its decoder alone.
    """
    halves = {half: {name: weights[name] for name in weights if name.startswith(f"{half}.")} for half in HALVES}
    return {half: digest(own, json.dumps(asdict(shape))) for half, own in halves.items() if own}
