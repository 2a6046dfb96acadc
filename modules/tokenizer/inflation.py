"""From the weights in a file to those of a network: taken as they are, or inflated from pictures to video (paper 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

# What the temporal slices of a kernel before the last one start as.
TemporalInit = Literal["zeros", "random"]

# The only convolutions whose shape depends on the number of bits per token.
BIT_CONVOLUTIONS = ("encoder.conv_out.conv.", "decoder.conv_in.conv.")

EXTRA_STATE = "_extra_state"


@dataclass
class InflationResult:
    """Tensors for a network, and the names of those that were copied, inflated, or reinitialised for another number of bits."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)


def inflate_state_dict(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], temporal_init: TemporalInit = "zeros", reinitialise: bool = False
) -> InflationResult:
    """The tensors ``found`` in a file, for a network that has ``own``.

    A kernel with one temporal slice in the file and more in the network becomes its last slice. With "zeros" before it the video
    network starts exactly equal to the image network, as time is padded with zeros; the paper says "random".

    Args:
        own: The network's names and tensors, as newly initialised.
        found: The file's; names that the network does not have are left alone.
        temporal_init: What the earlier temporal slices of an inflated kernel hold; "random" keeps those of ``own``.
        reinitialise: Whether the two convolutions that depend on the number of bits keep their new values if the file has another number.

    Raises:
        ValueError: If a tensor is missing or has another shape; the first one is named.
    """
    result, culprits = InflationResult(), []
    for name, value in own.items():
        if name not in found:
            culprits.append(f"{name} is missing in the file")
        elif name.endswith(EXTRA_STATE) or found[name].shape == value.shape:
            result.tensors[name] = found[name]
            result.copied.append(name)
        elif _only_time_differs(found[name], value):
            result.tensors[name] = _inflated(found[name], value, temporal_init)
            result.inflated.append(name)
        elif not (reinitialise and _depends_on_bits(name)):
            culprits.append(f"{name} is {tuple(found[name].shape)} in the file and {tuple(value.shape)} in the model")
        else:
            result.reinitialised.append(name)
    if culprits:
        raise ValueError(culprits[0] + (f" (and {len(culprits) - 1} more)" if len(culprits) > 1 else ""))
    if result.reinitialised:
        _reinitialise_whole_convolutions(result, own)
    return result


def _only_time_differs(kernel: Tensor, target: Tensor) -> bool:
    """Whether a kernel has one temporal slice and is otherwise like its target."""
    return kernel.ndim == target.ndim == 5 and kernel.shape[2] == 1 and kernel[:, :, 0].shape == target[:, :, 0].shape


def _inflated(kernel: Tensor, target: Tensor, temporal_init: TemporalInit) -> Tensor:
    """``(out, in, 1, h, w)`` as the last temporal slice of ``(out, in, n, h, w)``."""
    earlier = target[:, :, :-1]
    return torch.cat([torch.zeros_like(earlier) if temporal_init == "zeros" else earlier, kernel.to(earlier)], dim=2)


def _depends_on_bits(name: str) -> bool:
    return any(convolution in name for convolution in BIT_CONVOLUTIONS)


def _reinitialise_whole_convolutions(result: InflationResult, own: Mapping[str, Tensor]) -> None:
    """Another number of bits means new kernels and new offsets at both ends of the latent."""
    result.reinitialised = [name for name in own if _depends_on_bits(name)]
    result.tensors |= {name: own[name] for name in result.reinitialised}
    result.copied = [name for name in result.copied if name not in result.reinitialised]
    result.inflated = [name for name in result.inflated if name not in result.reinitialised]
