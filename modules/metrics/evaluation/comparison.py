"""Comparison of sets of feature vectors with real ones: distances, copies of training videos, variety."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.metrics.evaluation.report import Measurement
from modules.metrics.frechet import frechet_distance
from modules.metrics.kernel import kernel_distance, kernel_title

# Rows of the pairwise matrix that are computed at once.
CHUNK = 1024


@dataclass(frozen=True)
class RealVideos:
    """Features of real videos in a random order.

    Args:
        vectors: ``(M, D)``.
        labels: ``(M,)`` classes, -1 for none.
        wanted: Number of videos to compare with, at most ``M``.
    """

    vectors: Tensor
    labels: Tensor
    wanted: int

    @property
    def reference(self) -> Tensor:
        """Real side of every distance, ``(wanted, D)``."""
        return self.vectors[: self.wanted]

    def halves(self) -> tuple[Tensor, Tensor]:
        """Two disjoint sets of ``wanted`` videos each, or half of all if there are fewer."""
        size = min(self.wanted, len(self.vectors) // 2)
        return self.vectors[:size], self.vectors[size : 2 * size]


def distance_measurements(
    real: RealVideos, sets: Mapping[str, Sequence[Tensor]], title: str, note: Callable[[str], str]
) -> list[Measurement]:
    """Return Fréchet and kernel distances of sets of vectors from the real ones; real-vs-real first.

    Args:
        real: Real videos.
        sets: Vectors ``(N, D)`` of every seed, by name.
        title: Name of the Fréchet distance.
        note: Remark on a set, by its name.
    """
    dimensions, halves = real.vectors.shape[1], real.halves()
    size = len(halves[0])
    found = []
    for metric, distance, needed in ((title, frechet_distance, dimensions), (kernel_title(title), kernel_distance, 0)):
        reference = distance(*halves)
        found.append(Measurement(metric, "real", (reference,), reference, size, _note("two disjoint sets of real videos", size, needed)))
        for name, made in sets.items():
            values = tuple(distance(real.reference, vectors) for vectors in made)
            fewest = min(real.wanted, len(made[0]))
            found.append(Measurement(metric, name, values, reference, len(made[0]), _note(note(name), fewest, needed)))
    return found


def _note(note: str, videos: int, dimensions: int) -> str:
    few = f"too few videos for {dimensions} dimensions" if videos <= dimensions else ""
    return "; ".join(filter(None, (note, few)))


def copy_measurements(training: Tensor, real: Tensor | None, sets: Mapping[str, Sequence[Tensor]]) -> list[Measurement]:
    """Return the distance of videos to the nearest training video, relative to that of real videos: far below 1 for copies.

    Args:
        training: Vectors of training videos.
        real: Vectors of held-out videos; with None training videos are compared with each other.
        sets: Vectors of generated videos, of every seed.
    """
    scale = scale_of(training)
    bank = training / scale
    usual, _ = nearest(bank, bank, exclude_self=True) if real is None else nearest(real / scale, bank)
    note = f"against {'other training' if real is None else 'held-out'} videos; {len(training)} training videos"
    found = []
    for name, made in sets.items():
        distances = [nearest(vectors / scale, bank)[0] for vectors in made]
        ratios = tuple((each.median() / usual.median()).item() for each in distances)
        fractions = tuple((each < usual.quantile(0.01)).double().mean().item() for each in distances)
        for metric, values, reference in (
            ("median distance to the nearest training video (1 = as real videos)", ratios, 1.0),
            ("fraction nearer to a training video than 99 % of real ones", fractions, 0.01),
        ):
            found.append(Measurement(metric, name, values, reference, len(made[0]), note))
    return found


def variety_measurements(real: RealVideos, sets: Mapping[str, Sequence[Tensor]]) -> list[Measurement]:
    """Return the variance of videos over the seeds of one condition, relative to that of real videos of one class; 0: always the same."""
    within = class_variance(real.vectors, real.labels)
    usual, kind = (real.vectors.var(dim=0).sum().item(), "real videos") if within is None else (within, "real videos of one class")
    found = []
    for name, made in sets.items():
        if len(made) > 1 and usual > 0:
            between = torch.stack(list(made)).var(dim=0).sum(dim=1).mean().item()
            metric = "variety for one condition (1 = as real videos)"
            found.append(Measurement(metric, name, (between / usual,), 1.0, len(made[0]), f"variety against {kind}"))
    return found


def closest(training: Tensor, made: Tensor, count: int) -> list[tuple[int, int]]:
    """Return index pairs of the made videos nearest to a training video and of that training video, the nearest pair first."""
    scale = scale_of(training)
    distances, indices = nearest(made / scale, training / scale)
    return [(number, int(indices[number])) for number in distances.argsort()[:count].tolist()]


def scale_of(training: Tensor) -> Tensor:
    """Return the unit of distance of every dimension."""
    return training.std(dim=0).clamp(min=1e-12)


def nearest(vectors: Tensor, bank: Tensor, exclude_self: bool = False) -> tuple[Tensor, Tensor]:
    """Return distance to and index of the nearest vector of a bank; ``exclude_self`` if the bank is ``vectors``."""
    distances, indices = [], []
    for first, chunk in zip(range(0, len(vectors), CHUNK), vectors.split(CHUNK), strict=True):
        pairwise = torch.cdist(chunk, bank)
        if exclude_self:
            pairwise[torch.arange(len(chunk)), torch.arange(first, first + len(chunk))] = torch.inf
        minimum = pairwise.min(dim=1)
        distances.append(minimum.values)
        indices.append(minimum.indices)
    return torch.cat(distances), torch.cat(indices)


def class_variance(vectors: Tensor, labels: Tensor) -> float | None:
    """Return the sum over dimensions of the unbiased variance within a class, mean over classes of two or more; None if there is none."""
    classes = [vectors[labels == label] for label in labels.unique().tolist() if label >= 0]
    variances = [members.var(dim=0).sum() for members in classes if len(members) > 1]
    return torch.stack(variances).mean().item() if variances else None
