"""Ways to compute neighbouring outputs of a short one-dimensional convolution with fewer multiplications.

Inputs and kernel are taken as polynomials, multiplied at a few points and interpolated (Toom-Cook, in networks known as Winograd). Nested
over rows, columns and time they make a convolution in three dimensions; :mod:`modules.tokenizer.winograd.conv` does that. All functions
work along the first axis with whole tensors and write where they are told to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROOT = 2**0.5


@dataclass(frozen=True)
class Scheme:
    """How to get ``outputs`` neighbouring results of a one-dimensional convolution from ``inputs`` neighbouring values.

    Attributes:
        inputs: Values that a tile reads.
        step: Values from the start of one tile to the next.
        outputs: Results of a tile.
        kernel: Row per product, column per tap: the kernel's values to multiply with.
        spread: From the inputs to the products' other factors, written to the second argument.
        gather: From the products, which it overwrites, to the outputs, written to the second argument.
    """

    inputs: int
    step: int
    outputs: int
    kernel: tuple[tuple[float, ...], ...]
    spread: Callable[[Sequence[Tensor], Tensor], None]
    gather: Callable[[Tensor, Sequence[Tensor]], None]


def _copy(source: Sequence[Tensor] | Tensor, target: Sequence[Tensor] | Tensor) -> None:
    for one, other in zip(source, target, strict=True):
        other.copy_(one)


def _sum(product: Tensor, out: Sequence[Tensor]) -> None:
    torch.add(product[0], product[1], out=out[0]).add_(product[2])


def _spread_four(value: Sequence[Tensor], out: Tensor) -> None:
    torch.add(value[0], value[4], out=out[0]).sub_(value[2], alpha=2.5)
    torch.add(value[1], value[5], out=out[5]).sub_(value[3], alpha=2.5)
    for index, point in ((1, ROOT / 2), (3, ROOT)):
        even = torch.sub(value[4], value[2], alpha=1 / point**2, out=out[index])
        odd = torch.sub(value[3], value[1], alpha=1 / point**2, out=out[index + 1])
        even.add_(odd, alpha=point)
        torch.sub(even, odd, alpha=2 * point, out=odd)


def _gather_four(product: Tensor, out: Sequence[Tensor]) -> None:
    for index in (1, 3):  # product[index] becomes the difference of two opposite points, product[index + 1] their sum
        product[index].sub_(product[index + 1])
        torch.add(product[index], product[index + 1], alpha=2, out=product[index + 1])
    torch.add(product[0], product[2], alpha=2, out=out[0]).add_(product[4], alpha=0.5)
    torch.add(product[1], product[3], alpha=0.5, out=out[1]).mul_(ROOT)
    torch.add(product[2], product[4], out=out[2])
    torch.add(product[5], product[1], alpha=ROOT / 2, out=out[3]).add_(product[3], alpha=ROOT)


def _spread_doubled(value: Sequence[Tensor], out: Tensor) -> None:
    out[0].copy_(value[1])
    torch.sub(value[0], value[1], out=out[1])
    torch.sub(value[2], value[1], out=out[2])


def _gather_doubled(product: Tensor, out: Sequence[Tensor]) -> None:
    torch.add(product[0], product[1], out=out[0])
    torch.add(product[0], product[2], out=out[1])


def _spread_doubled_causal(value: Sequence[Tensor], out: Tensor) -> None:
    _copy(value, out[:2])
    torch.sub(value[0], value[1], out=out[2])


def _gather_doubled_causal(product: Tensor, out: Sequence[Tensor]) -> None:
    torch.add(product[0], product[1], out=out[1])
    torch.add(out[1], product[2], out=out[0])


# The points 0, ±1/√2, ±√2 and infinity: over three axes a third of the rounding error of 0, ±1, ±2 and infinity, which is usual.
_FOUR_KERNEL = (
    (1.0, 0.0, 0.0),
    *((-1 / 3, -sign * ROOT / 6, -1 / 6) for sign in (1, -1)),
    *((1 / 3, sign * ROOT / 3, 2 / 3) for sign in (1, -1)),
    (0.0, 0.0, 1.0),
)
FOUR = Scheme(6, 4, 4, _FOUR_KERNEL, _spread_four, _gather_four)
ONE = Scheme(3, 1, 1, ((1, 0, 0), (0, 1, 0), (0, 0, 1)), _copy, _sum)
PER_FRAME = Scheme(1, 1, 1, ((1,),), _copy, _copy)
# With inputs a, b, c and taps u, v, w the outputs ua + (v+w)b and (u+v)b + wc are (u+v+w)b + u(a-b) and (u+v+w)b + w(c-b).
DOUBLED = Scheme(3, 1, 2, ((1, 1, 1), (1, 0, 0), (0, 0, 1)), _spread_doubled, _gather_doubled)
# In time, where nothing later is seen: (u+v)a + wb and ua + (v+w)b, the first being the second plus v(a-b).
DOUBLED_CAUSAL = Scheme(2, 1, 2, ((1, 0, 0), (0, 1, 1), (0, 1, 0)), _spread_doubled_causal, _gather_doubled_causal)
