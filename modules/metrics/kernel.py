"""How far two sets of videos are from each other without the assumption that their features are normally distributed: a kernel distance."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.image.kid import poly_kernel

# Rows of a matrix of pairs that are computed at once.
CHUNK = 1024


def kernel_distance(real: Tensor, made: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of two sets of vectors ``(N, D)`` under the kernel (x . y / D + 1)^3, all pairs.

    That of KVD (Unterthiner et al., 2018). It needs no more videos than dimensions, and may be a little below 0. torchmetrics' own sum
    wants two sets of one size and all pairs in memory, and its ``KernelInceptionDistance`` draws subsets; kernel and scaling are its.

    Raises:
        ValueError: With fewer than two videos on a side.
    """
    if (least := min(len(real), len(made))) < 2:
        raise ValueError(f"a kernel distance needs at least two videos on each side, got {least}")
    real, made = real.double(), made.double()
    return _mean_of_others(real) + _mean_of_others(made) - 2 * _sum(real, made) / (len(real) * len(made))


def kernel_title(title: str) -> str:
    """What the kernel distance is called whose features' Fréchet distance has a title. Only I3D's may be called KVD."""
    return "KVD" if title == "FVD" else f"kernel distance, {title.removeprefix('Fréchet distance, ')}"


def _mean_of_others(vectors: Tensor) -> float:
    """Mean of the kernel over all pairs of different vectors."""
    itself = (vectors.square().sum(dim=1) / vectors.shape[1] + 1.0).pow(3).sum().item()
    return (_sum(vectors, vectors) - itself) / (len(vectors) * (len(vectors) - 1))


def _sum(one: Tensor, other: Tensor) -> float:
    return sum(poly_kernel(part, other).sum().item() for part in one.split(CHUNK))
