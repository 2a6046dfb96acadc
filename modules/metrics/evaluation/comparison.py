"""Sets of videos, given as vectors, against real ones: distances, copies of training videos, variety."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.metrics.evaluation.results import Row
from modules.metrics.frechet import frechet_distance
from modules.metrics.kernel import kernel_distance, kernel_title

# Rows of a matrix of distances that are computed at once.
CHUNK = 1024


@dataclass(frozen=True)
class RealVideos:
    """Vectors of real videos, in an order drawn by chance.

    Args:
        vectors: ``(M, D)``.
        labels: ``(M,)`` classes, -1 where there are none.
        wanted: Videos to compare with, at most ``M``.
    """

    vectors: Tensor
    labels: Tensor
    wanted: int

    @property
    def reference(self) -> Tensor:
        """The real side of every distance, ``(wanted, D)``."""
        return self.vectors[: self.wanted]

    def floor(self) -> tuple[Tensor, Tensor]:
        """Two disjoint sets of real videos, of ``wanted`` videos each or as many as there are."""
        size = floor_size(self.wanted, len(self.vectors))
        return self.vectors[:size], self.vectors[size : 2 * size]


def floor_size(wanted: int, there: int) -> int:
    """Videos on each side of a floor."""
    return min(wanted, there // 2)


def distance_rows(real: RealVideos, sets: Mapping[str, Sequence[Tensor]], title: str, note: Callable[[str], str]) -> list[Row]:
    """Fréchet and kernel distances of sets of vectors, each of one tensor per seed, from the real ones; the floor first.

    Args:
        real: Real videos.
        sets: Vectors of every seed, by what they are of.
        title: What the Fréchet distance is called.
        note: What there is to say about a set.
    """
    dimensions, halves = real.vectors.shape[1], real.floor()
    size, about_floor = len(halves[0]), "two disjoint sets of real videos"
    rows = []
    for metric, distance, needed in ((title, frechet_distance, dimensions), (kernel_title(title), kernel_distance, 0)):
        floor = distance(*halves)
        rows.append(Row(metric, "real", (floor,), floor, size, _remarks(about_floor, size, needed)))
        for name, made in sets.items():
            values = tuple(distance(real.reference, vectors) for vectors in made)
            fewest = min(real.wanted, len(made[0]))
            rows.append(Row(metric, name, values, floor, len(made[0]), _remarks(note(name), fewest, needed)))
    return rows


def _remarks(note: str, videos: int, dimensions: int) -> str:
    few = f"too few videos for {dimensions} dimensions" if videos <= dimensions else ""
    return "; ".join(filter(None, (note, few)))


def copy_rows(training: Tensor, real: Tensor | None, sets: Mapping[str, Sequence[Tensor]]) -> list[Row]:
    """How near videos are to their nearest training video, against how near other real videos are: well below 1 for copies.

    Args:
        training: Vectors of training videos.
        real: Vectors of held-out videos; if there are none, training videos are compared with each other.
        sets: Vectors of made videos, of every seed.
    """
    spread = spread_of(training)
    bank = training / spread
    usual, _ = nearest(bank, bank, itself=True) if real is None else nearest(real / spread, bank)
    rows = []
    for name, made in sets.items():
        near = [nearest(vectors / spread, bank)[0] for vectors in made]
        ratios = tuple((found.median() / usual.median()).item() for found in near)
        shares = tuple((found < usual.quantile(0.01)).double().mean().item() for found in near)
        note = f"against {'other training' if real is None else 'held-out'} videos; {len(training)} training videos"
        rows.append(Row("median distance to the nearest training video (1 = as real videos)", name, ratios, 1.0, len(made[0]), note))
        rows.append(Row("share nearer to a training video than 99 % of real ones", name, shares, 0.01, len(made[0]), note))
    return rows


def variety_rows(real: RealVideos, sets: Mapping[str, Sequence[Tensor]]) -> list[Row]:
    """How much videos made for one condition differ from seed to seed, against real videos of one class; 0 for a single answer."""
    inside, whole = class_variance(real.vectors, real.labels), real.vectors.var(dim=0).sum().item()
    usual, what = (whole, "real videos") if inside is None else (inside, "real videos of one class")
    title, rows = "variety for one condition (1 = as real videos)", []
    for name, made in sets.items():
        if len(made) > 1 and usual > 0:
            between = torch.stack(list(made)).var(dim=0).sum(dim=1).mean().item()
            rows.append(Row(title, name, (between / usual,), 1.0, len(made[0]), f"variety against {what}"))
    return rows


def closest(training: Tensor, made: Tensor, count: int) -> list[tuple[int, int]]:
    """Numbers of the made videos that are nearest to a training video, and of that one; the nearest pair first."""
    spread = spread_of(training)
    distances, places = nearest(made / spread, training / spread)
    return [(number, int(places[number])) for number in distances.argsort()[:count].tolist()]


def spread_of(training: Tensor) -> Tensor:
    """What distances are measured in, for every dimension."""
    return training.std(dim=0).clamp(min=1e-12)


def nearest(vectors: Tensor, bank: Tensor, itself: bool = False) -> tuple[Tensor, Tensor]:
    """Distance of every vector to the nearest of a bank, and which; with ``itself`` the bank holds the vectors, which do not count."""
    distances, places = [], []
    for first, chunk in zip(range(0, len(vectors), CHUNK), vectors.split(CHUNK), strict=True):
        found = torch.cdist(chunk, bank)
        if itself:
            found[torch.arange(len(chunk)), torch.arange(first, first + len(chunk))] = torch.inf
        least = found.min(dim=1)
        distances.append(least.values)
        places.append(least.indices)
    return torch.cat(distances), torch.cat(places)


def class_variance(vectors: Tensor, labels: Tensor) -> float | None:
    """Sum over dimensions of the unbiased variance within a class, mean over classes of two videos or more; None if there is none."""
    classes = [vectors[labels == label] for label in labels.unique().tolist() if label >= 0]
    variances = [members.var(dim=0).sum() for members in classes if len(members) > 1]
    return torch.stack(variances).mean().item() if variances else None
