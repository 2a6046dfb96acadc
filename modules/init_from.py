"""Initialisation of a model from weights in files (``--init_from``); weights of an image tokenizer are inflated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.storage.tensor_file import open_tensors
from modules.tokenizer.infinity import tokenizer_in
from modules.tokenizer.inflation import TemporalInit, inflate_state_dict


@dataclass
class LoadReport:
    """Result of :func:`load_weights` as lists of tensor names; ``str(report)`` is the text for the log."""

    path: str
    copied: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)
    initialised: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"weights from {self.path}:"]
        for kind, names in (
            ("copied", self.copied),
            ("inflated from 2D to 3D", self.inflated),
            ("newly initialised", self.initialised),
            ("in the file but not used", self.unused),
        ):
            parts = Counter(".".join(name.split(".")[:2]) for name in names)
            where = ", ".join(f"{part} ({count})" for part, count in parts.items()) or "-"
            lines.append(f"  {kind:>24}: {len(names):4d}  {where}")
        if self.reinitialised:
            lines.append(f"  newly initialised, as the file has another number of bits: {', '.join(self.reinitialised)}")
        return "\n".join(lines)


def load_weights(
    module: nn.Module, path: str | Path | Sequence[str], temporal_init: TemporalInit = "zeros", reinitialise: bool = False
) -> LoadReport:
    """Initialise ``module`` with the weights of one file, or of several that complete each other.

    Each direct child of the model (``tokenizer``, ``transformer``) is loaded completely or, if the file has no weights for it, keeps its
    initial values. Convolutions with one temporal slice in the file and more in the model are inflated
    (:func:`modules.tokenizer.inflation.inflate_state_dict`, paper 4.1).

    Args:
        module: The model; unchanged if the file does not match it.
        path: A Lightning checkpoint, a safetensors file, or a tokenizer published by Infinity; or several of them, for a model that was
            trained without its tokenizer's encoder.
        temporal_init: Initial values of the earlier temporal slices of inflated kernels.
        reinitialise: Whether a trained part may be initialised from a file with another number of bits per token; the two convolutions
            that depend on it then keep their initial values and are listed in the report.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file contains no weights, or none for this model, or matches it only in part; the first mismatch is named. Also
            if files disagree on a tensor, or the model's condition rejects the weights, for example those for another text encoder.
    """
    paths = [path] if isinstance(path, str | Path) else path
    found, own = _read_together(paths), module.state_dict()
    path = " and ".join(map(str, paths))
    report, loaded = LoadReport(path), {}
    for part, network in module.named_children():
        names = [name for name in own if name.startswith(f"{part}.")]
        if not any(name in found for name in names):
            report.initialised += names
            continue
        trained = any(parameter.requires_grad for parameter in network.parameters())
        try:
            matched = inflate_state_dict({name: own[name] for name in names}, found, temporal_init, reinitialise and trained)
        except ValueError as error:
            raise ValueError(f"{path} is of another architecture: {error}") from error
        loaded |= matched.tensors
        report.copied += matched.copied
        report.inflated += matched.inflated
        report.reinitialised += matched.reinitialised
    report.unused = [name for name in found if name not in own]
    if not loaded:
        raise ValueError(f"{path} has no weights for this model: it has {_parts(found)}, the model {_parts(own)}")
    module.load_state_dict({**own, **loaded})
    return report


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a Lightning checkpoint, a safetensors file or a single tokenizer, on the CPU; never unpickles code.

    The names of a single tokenizer, Infinity's or the state dict of a ``VideoTokenizer``, get the prefix ``tokenizer.``.
    """
    content = open_tensors(path)
    if tokenizer := tokenizer_in(content):
        return {f"tokenizer.{name}": value for name, value in tokenizer.items()}
    content = content.get("state_dict", content)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _read_together(paths: Sequence[str | Path]) -> dict[str, Tensor]:
    """Read the tensors of several files; raise ``ValueError`` if two files have different tensors of the same name."""
    found: dict[str, Tensor] = {}
    for path in paths:
        for name, value in read_weights(path).items():
            if name in found and not torch.equal(found[name], value):
                raise ValueError(f"{path} is from another model than {paths[0]}: their values of {name} differ")
            found[name] = value
    return found


def _parts(names: dict[str, Tensor]) -> str:
    parts = sorted({name.split(".")[0] for name in names})
    return ", ".join(parts[:5]) or "no tensors"
