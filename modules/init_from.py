"""Starting a model from a file of weights: what fits is taken, an image tokenizer is inflated, anything half fitting is refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.storage.tensor_file import open_tensors
from modules.tokenizer.infinity import tokenizer_in
from modules.tokenizer.inflation import TemporalInit, inflate_state_dict


@dataclass
class Report:
    """What :func:`load_weights` did, as lists of tensor names; ``str(report)`` is the text for the log."""

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
            parts = defaultdict(int)
            for name in names:
                parts[".".join(name.split(".")[:2])] += 1
            where = ", ".join(f"{part} ({count})" for part, count in parts.items()) or "-"
            lines.append(f"  {kind:>24}: {len(names):4d}  {where}")
        if self.reinitialised:
            lines.append(f"  newly initialised, as the file has another number of bits: {', '.join(self.reinitialised)}")
        return "\n".join(lines)


def load_weights(
    module: nn.Module, path: str | Path | Sequence[str], temporal_init: TemporalInit = "zeros", reinitialise: bool = False
) -> Report:
    """Start ``module`` from the weights in a file, or in several that complete each other.

    A part of the model (a direct child: ``tokenizer``, ``transformer``) is either taken whole or, when the file has nothing of it, left
    as newly initialised. Convolutions with one temporal slice in the file and more here are inflated (paper 4.1).

    Args:
        module: The model to start; untouched if the file does not fit it.
        path: A Lightning checkpoint, a safetensors file, or a tokenizer that Infinity published; or several of them, for a model that
            was trained without its tokenizer's encoder.
        temporal_init: What the earlier temporal slices of inflated kernels hold (:func:`modules.tokenizer.inflation.inflate_state_dict`).
        reinitialise: Whether a part that is trained may start from a file with another number of bits per token: the two convolutions that
            depend on it are newly initialised then, and listed in the report.

    Returns:
        What was copied, inflated, newly initialised and not used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of weights, has nothing for this model, or fits it only in part; the first culprit is named. Also if
            files differ in what they share, and if the model's condition refuses the weights, as those for another text encoder.
    """
    paths = [path] if isinstance(path, str | Path) else path
    found, own = _read_together(paths), module.state_dict()
    path = " and ".join(map(str, paths))
    report, fitted = Report(path), {}
    for part, network in module.named_children():
        names = [name for name in own if name.split(".")[0] == part]
        if not any(name in found for name in names):
            report.initialised += names
            continue
        trained = any(parameter.requires_grad for parameter in network.parameters())
        try:
            fit_of_part = inflate_state_dict({name: own[name] for name in names}, found, temporal_init, reinitialise and trained)
        except ValueError as error:
            raise ValueError(f"{path} is of another architecture: {error}") from error
        fitted |= fit_of_part.tensors
        report.copied += fit_of_part.copied
        report.inflated += fit_of_part.inflated
        report.reinitialised += fit_of_part.reinitialised
    report.unused = [name for name in found if name not in own]
    if not fitted:
        raise ValueError(f"{path} has no weights for this model: it holds {_some(found)}, the model has {_some(own)}")
    module.load_state_dict({**own, **fitted})
    return report


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a Lightning checkpoint, a safetensors file or a bare tokenizer, on the CPU; never unpickles code.

    The names of a bare tokenizer, Infinity's or the state of a ``VideoTokenizer``, get the prefix ``tokenizer.``.
    """
    content = open_tensors(path)
    if bare := tokenizer_in(content):
        return {f"tokenizer.{name}": value for name, value in bare.items()}
    content = content.get("state_dict", content)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _read_together(paths: Sequence[str | Path]) -> dict[str, Tensor]:
    """Named tensors of several files.

    Raises:
        ValueError: If two of them have different tensors of one name.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        for name, value in read_weights(path).items():
            if name in found and not torch.equal(found[name], value):
                raise ValueError(f"{path} is of another model than {paths[0]}: both have {name}, with other values")
            found[name] = value
    return found


def _some(names: dict[str, Tensor]) -> str:
    parts = sorted({name.split(".")[0] for name in names})
    return ", ".join(parts[:5]) or "no tensors"
