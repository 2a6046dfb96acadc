"""Starting a model from a file of weights: what fits is taken, an image tokenizer is inflated, anything half fitting is refused."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from modules.tensor_file import open_tensors
from modules.tokenizer.inflation import can_inflate, inflate_kernel

EXTRA_STATE = "_extra_state"


@dataclass
class Report:
    """What :func:`load_weights` did, as lists of tensor names; ``str(report)`` is the text for the log."""

    path: str
    copied: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
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
        return "\n".join(lines)


def load_weights(module: nn.Module, path: str | Path) -> Report:
    """Start ``module`` from the weights in a file.

    A part of the model (a direct child: ``tokenizer``, ``transformer``) is either taken whole or, when the file has nothing of it, left
    as newly initialised. Convolutions with one temporal slice in the file and more here are inflated: the last slice takes the kernel,
    the earlier ones are zero, so that the video model starts exactly equal to the image model (paper 4.1).

    Args:
        module: The model to start; untouched if an error is raised.
        path: A Lightning checkpoint or a safetensors file.

    Returns:
        What was copied, inflated, newly initialised and not used.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of weights, has nothing for this model, or fits it only in part; the first culprit is named.
    """
    found, own = read_weights(path), module.state_dict()
    report, fitted = Report(str(path)), {}
    for part in dict.fromkeys(name.split(".")[0] for name in own):
        names = [name for name in own if name.split(".")[0] == part]
        if not any(name in found for name in names):
            report.initialised += names
            continue
        fitted |= _fit_part(names, own, found, report)
    report.unused = [name for name in found if name not in own]
    if not fitted:
        raise ValueError(f"{path} has no weights for this model: it holds {_some(found)}, the model has {_some(own)}")
    module.load_state_dict({**own, **fitted})
    return report


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a Lightning checkpoint (``.ckpt``, ``.pt``, ``.pth``) or a safetensors file, on the CPU; never unpickles code."""
    content = open_tensors(path)
    content = content.get("state_dict", content)
    return {name: value for name, value in content.items() if isinstance(value, Tensor)}


def _fit_part(names: list[str], own: dict[str, Tensor], found: dict[str, Tensor], report: Report) -> dict[str, Tensor]:
    """The file's tensors for all ``names`` of one part, inflated where needed."""
    fitted, culprits = {}, []
    for name in names:
        if name not in found:
            culprits.append(f"{name} is missing in the file")
        elif name.endswith(EXTRA_STATE) or found[name].shape == own[name].shape:
            fitted[name] = found[name]
            report.copied.append(name)
        elif can_inflate(found[name], own[name]):
            fitted[name] = inflate_kernel(found[name], torch.zeros_like(own[name][:, :, :-1]))
            report.inflated.append(name)
        else:
            culprits.append(f"{name} is {tuple(found[name].shape)} in the file and {tuple(own[name].shape)} in the model")
    if culprits:
        more = f" (and {len(culprits) - 1} more)" if len(culprits) > 1 else ""
        raise ValueError(f"{report.path} is of another architecture: {culprits[0]}{more}")
    return fitted


def _some(names: dict[str, Tensor]) -> str:
    parts = sorted({name.split(".")[0] for name in names})
    return ", ".join(parts[:5]) or "no tensors"
