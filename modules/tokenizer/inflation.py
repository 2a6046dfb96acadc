"""Transfer of 2D image tokenizer weights to a 3D video tokenizer (inflation, paper 4.1), also for weights of equal shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

# Initial values of the temporal slices before the last one of an inflated kernel.
TemporalInit = Literal["zeros", "random"]

# The only convolutions whose shapes depend on the number of bits per token.
BIT_CONVOLUTIONS = ("encoder.conv_out.conv.", "decoder.conv_in.conv.")

EXTRA_STATE = "_extra_state"


@dataclass
class InflationResult:
    """Tensors for a network, and the names of those copied, inflated, or reinitialised for another number of bits."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    copied: list[str] = field(default_factory=list)
    inflated: list[str] = field(default_factory=list)
    reinitialised: list[str] = field(default_factory=list)


def inflate_state_dict(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], temporal_init: TemporalInit = "zeros", reinitialise: bool = False
) -> InflationResult:
    """Match the tensors ``found`` in a file to a network with the tensors ``own``, inflating 2D kernels to 3D.

    A kernel with one temporal slice in the file and more in the network becomes the last slice. With "zeros" before it the video tokenizer
    initially equals the image tokenizer, because time is padded with zeros; the paper uses "random".

    Args:
        own: State dict of the newly initialised network.
        found: State dict of the file; names that the network does not have are ignored.
        temporal_init: Initial values of the earlier temporal slices of inflated kernels; "random" keeps those of ``own``.
        reinitialise: Whether the two convolutions that depend on the number of bits keep their values from ``own`` if the file has another
            number of bits.

    Raises:
        ValueError: If a tensor is missing or has another shape; the first one is named.
    """
    result, mismatches = InflationResult(), []
    for name, value in own.items():
        if name not in found:
            mismatches.append(f"{name} is missing in the file")
        elif name.endswith(EXTRA_STATE) or found[name].shape == value.shape:
            result.tensors[name] = found[name]
            result.copied.append(name)
        elif _is_inflatable(found[name], value):
            result.tensors[name] = _inflate(found[name], value, temporal_init)
            result.inflated.append(name)
        elif not (reinitialise and _depends_on_bits(name)):
            mismatches.append(f"{name} is {tuple(found[name].shape)} in the file and {tuple(value.shape)} in the model")
        else:
            result.reinitialised.append(name)
    if mismatches:
        raise ValueError(mismatches[0] + (f" (and {len(mismatches) - 1} more)" if len(mismatches) > 1 else ""))
    if result.reinitialised:
        _reinitialise_bit_convolutions(result, own)
    return result


def _is_inflatable(kernel: Tensor, target: Tensor) -> bool:
    """True if a kernel has one temporal slice and otherwise the shape of its target."""
    return kernel.ndim == target.ndim == 5 and kernel.shape[2] == 1 and kernel[:, :, 0].shape == target[:, :, 0].shape


def _inflate(kernel: Tensor, target: Tensor, temporal_init: TemporalInit) -> Tensor:
    """Return ``(out, in, n, h, w)`` with ``kernel`` ``(out, in, 1, h, w)`` as its last temporal slice."""
    earlier = target[:, :, :-1]
    return torch.cat([torch.zeros_like(earlier) if temporal_init == "zeros" else earlier, kernel.to(earlier)], dim=2)


def _depends_on_bits(name: str) -> bool:
    return any(convolution in name for convolution in BIT_CONVOLUTIONS)


def _reinitialise_bit_convolutions(result: InflationResult, own: Mapping[str, Tensor]) -> None:
    """Reinitialise kernels and biases of both convolutions next to the latent."""
    result.reinitialised = [name for name in own if _depends_on_bits(name)]
    result.tensors |= {name: own[name] for name in result.reinitialised}
    result.copied = [name for name in result.copied if name not in result.reinitialised]
    result.inflated = [name for name in result.inflated if name not in result.reinitialised]
