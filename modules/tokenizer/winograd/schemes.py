"""One-dimensional Winograd tile schemes: input, kernel and output transforms of short convolutions with fewer multiplications.

Inputs and kernel are treated as polynomials, evaluated at a few points, multiplied and interpolated (Toom-Cook; Lavin and Gray 2016).
:mod:`modules.tokenizer.winograd.conv` nests the schemes over rows, columns and time. All transforms work along the first axis of whole
tensors and write to their second argument.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROOT = 2**0.5


@dataclass(frozen=True)
class TileScheme:
    """Transforms that compute ``outputs`` neighbouring results of a one-dimensional convolution from ``inputs`` neighbouring values.

    Attributes:
        inputs: Values that a tile reads.
        step: Values from the start of one tile to the next.
        outputs: Results of a tile.
        kernel: Kernel transform, one row per product and one column per tap.
        transform_input: Computes the products' other factors from the inputs.
        transform_output: Computes the outputs from the products, which it overwrites.
    """

    inputs: int
    step: int
    outputs: int
    kernel: tuple[tuple[float, ...], ...]
    transform_input: Callable[[Sequence[Tensor], Tensor], None]
    transform_output: Callable[[Tensor, Sequence[Tensor]], None]


def _copy(source: Sequence[Tensor] | Tensor, target: Sequence[Tensor] | Tensor) -> None:
    for one, other in zip(source, target, strict=True):
        other.copy_(one)


def _sum(product: Tensor, out: Sequence[Tensor]) -> None:
    torch.add(product[0], product[1], out=out[0]).add_(product[2])


def _f4_input(value: Sequence[Tensor], out: Tensor) -> None:
    torch.add(value[0], value[4], out=out[0]).sub_(value[2], alpha=2.5)
    torch.add(value[1], value[5], out=out[5]).sub_(value[3], alpha=2.5)
    for index, point in ((1, ROOT / 2), (3, ROOT)):
        even = torch.sub(value[4], value[2], alpha=1 / point**2, out=out[index])
        odd = torch.sub(value[3], value[1], alpha=1 / point**2, out=out[index + 1])
        even.add_(odd, alpha=point)
        torch.sub(even, odd, alpha=2 * point, out=odd)


def _f4_output(product: Tensor, out: Sequence[Tensor]) -> None:
    for index in (1, 3):  # product[index] becomes the difference of two opposite points, product[index + 1] their sum
        product[index].sub_(product[index + 1])
        torch.add(product[index], product[index + 1], alpha=2, out=product[index + 1])
    torch.add(product[0], product[2], alpha=2, out=out[0]).add_(product[4], alpha=0.5)
    torch.add(product[1], product[3], alpha=0.5, out=out[1]).mul_(ROOT)
    torch.add(product[2], product[4], out=out[2])
    torch.add(product[5], product[1], alpha=ROOT / 2, out=out[3]).add_(product[3], alpha=ROOT)


def _upsample_input(value: Sequence[Tensor], out: Tensor) -> None:
    out[0].copy_(value[1])
    torch.sub(value[0], value[1], out=out[1])
    torch.sub(value[2], value[1], out=out[2])


def _upsample_output(product: Tensor, out: Sequence[Tensor]) -> None:
    torch.add(product[0], product[1], out=out[0])
    torch.add(product[0], product[2], out=out[1])


def _causal_upsample_input(value: Sequence[Tensor], out: Tensor) -> None:
    _copy(value, out[:2])
    torch.sub(value[0], value[1], out=out[2])


def _causal_upsample_output(product: Tensor, out: Sequence[Tensor]) -> None:
    torch.add(product[0], product[1], out=out[1])
    torch.add(out[1], product[2], out=out[0])


# Points 0, ±1/√2, ±√2 and infinity: over three axes a third of the rounding error of the usual 0, ±1, ±2 and infinity.
_F4_KERNEL = (
    (1.0, 0.0, 0.0),
    *((-1 / 3, -sign * ROOT / 6, -1 / 6) for sign in (1, -1)),
    *((1 / 3, sign * ROOT / 3, 2 / 3) for sign in (1, -1)),
    (0.0, 0.0, 1.0),
)
# F(4, 3) in Winograd's notation: four outputs of three taps with six products.
F4 = TileScheme(6, 4, 4, _F4_KERNEL, _f4_input, _f4_output)
# One output of three taps, and of one tap, without savings.
DIRECT = TileScheme(3, 1, 1, ((1, 0, 0), (0, 1, 0), (0, 0, 1)), _copy, _sum)
ONE_TAP = TileScheme(1, 1, 1, ((1,),), _copy, _copy)
# Nearest-neighbour upsampling and three taps u, v, w of inputs a, b, c: the outputs ua + (v+w)b and (u+v)b + wc are (u+v+w)b + u(a-b) and
# (u+v+w)b + w(c-b).
UPSAMPLE = TileScheme(3, 1, 2, ((1, 1, 1), (1, 0, 0), (0, 0, 1)), _upsample_input, _upsample_output)
# The same over time, causal: the outputs are (u+v)a + wb and ua + (v+w)b; the first is the second plus v(a-b).
CAUSAL_UPSAMPLE = TileScheme(2, 1, 2, ((1, 0, 0), (0, 1, 1), (0, 1, 0)), _causal_upsample_input, _causal_upsample_output)
