"""Kernel distance of two sets of videos: assumes no distribution of their features."""

from __future__ import annotations

from torch import Tensor
from torchmetrics.image.kid import poly_kernel

# Rows of the pairwise matrix that are computed at once.
CHUNK = 1024


def kernel_distance(real: Tensor, made: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy of two sets of vectors ``(N, D)`` under the kernel (x . y / D + 1)^3.

    With I3D features this is KVD (Unterthiner et al., 2018). It needs no more videos than dimensions and may be slightly negative.
    torchmetrics' function needs two sets of equal size and all pairs in memory, and its ``KernelInceptionDistance`` draws subsets; kernel
    and scaling are the same.

    Raises:
        ValueError: If a side has fewer than two videos.
    """
    if (fewest := min(len(real), len(made))) < 2:
        raise ValueError(f"a kernel distance needs at least two videos on each side, got {fewest}")
    real, made = real.double(), made.double()
    return _mean_off_diagonal(real) + _mean_off_diagonal(made) - 2 * _sum(real, made) / (len(real) * len(made))


def kernel_title(title: str) -> str:
    """Return the name of the kernel distance, given that of the Fréchet distance. Only that of I3D may be called KVD."""
    return "KVD" if title == "FVD" else f"kernel distance, {title.removeprefix('Fréchet distance, ')}"


def _mean_off_diagonal(vectors: Tensor) -> float:
    """Mean of the kernel over all pairs of distinct vectors."""
    diagonal = (vectors.square().sum(dim=1) / vectors.shape[1] + 1.0).pow(3).sum().item()
    return (_sum(vectors, vectors) - diagonal) / (len(vectors) * (len(vectors) - 1))


def _sum(one: Tensor, other: Tensor) -> float:
    return sum(poly_kernel(part, other).sum().item() for part in one.split(CHUNK))
