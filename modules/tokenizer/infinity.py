"""Checkpoints of Infinity's tokenizers, ``infinity_vae_d16.pth`` and its siblings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from modules.storage.tensor_file import open_tensors

# Other entries of these files: the quantiser's constants, an alias of them, and the perceptual loss.
FOREIGN = ("quantizer.", "quantize.", "perceptual_model.", "flux")
FIRST = "encoder.conv_in.conv.weight"


def read_infinity(path: str | Path) -> dict[str, Tensor]:
    """Read the network's tensors of a published file, with our names and shapes: 2D kernels get a temporal axis of size 1.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it contains no such network. Pickled code is never executed.
    """
    tensors = tokenizer_in(open_tensors(path))
    if not tensors:
        raise ValueError(f"{path} contains no Infinity tokenizer: {FIRST} is missing")
    return tensors


def tokenizer_in(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a tokenizer in a file's content, nested under "vae" or not; empty if there is no tokenizer."""
    state = content.get("vae", content)
    if FIRST not in state:
        return {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor) and not name.startswith(FOREIGN)}
    return {name: value.float().unsqueeze(2) if value.ndim == 4 else value.float() for name, value in tensors.items()}


def read_settings(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of ``VideoTokenizer`` that follow from the shapes; for kernels with several temporal slices ``temporal_factor`` is 4."""
    first = tensors[FIRST]
    levels = _count(tensors, r"encoder\.down\.(\d+)\.block\.0\.conv1\.conv\.weight")
    widths = [tensors[f"encoder.down.{level}.block.0.conv1.conv.weight"].shape[0] for level in range(levels)]
    return {
        "bits": tensors["encoder.conv_out.conv.weight"].shape[0],
        "channels": first.shape[0],
        "multipliers": tuple(width // first.shape[0] for width in widths),
        "blocks": _count(tensors, r"encoder\.down\.0\.block\.(\d+)\.conv1\.conv\.weight"),
        "temporal_factor": 1 if first.shape[2] == 1 else 4,
    }


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Number of different indices that a pattern matches among the names."""
    return len({found[1] for name in tensors if (found := re.fullmatch(pattern, name))})
