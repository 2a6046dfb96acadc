"""Fréchet distance of two sets of videos: that of normal distributions fitted to their features."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance


class FrechetVideoDistance(FrechetInceptionDistance):
    """Fréchet distance of two sets of uint8 videos, on torchmetrics' accumulator.

    Sums are float64 and reduced over processes, so batch size, order and number of processes do not matter. Covariances are unbiased.
    ``update(video, real=True)`` adds real videos, ``real=False`` those to compare with them.

    Args:
        features: The feature network. FVD is this distance with :class:`modules.metrics.I3D`.
        settings: Settings of every torchmetrics metric, such as ``sync_on_compute``.
    """

    def __init__(self, features: nn.Module, **settings: Any) -> None:
        super().__init__(feature=features, normalize=False, **settings)

    def compute(self) -> Tensor:
        """Return the distance, float64; warns if a side has too few videos for a covariance of full rank.

        Raises:
            ValueError: If a side has fewer than two videos.
        """
        fewest, dimensions = min(int(self.real_features_num_samples), int(self.fake_features_num_samples)), len(self.real_features_sum)
        if fewest < 2:
            raise ValueError(f"a Fréchet distance needs at least two videos on each side, got {fewest}")
        if fewest <= dimensions:
            warnings.warn(
                f"a Fréchet distance of {fewest} videos in {dimensions} dimensions: a covariance of full rank needs more than {dimensions}",
                stacklevel=2,
            )
        # On the CPU: eigenvalues of general matrices are slow or inexact on other devices.
        device = self.device
        self.to("cpu")
        distance = super().compute().to(device)
        self.to(device)
        # Rounding in the square root of a nearly singular product can make the distance slightly negative.
        return distance.clamp(min=0.0)


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """Return the Fréchet distance between two sets of vectors ``(N, D)``; of this process alone."""
    identity: Any = nn.Identity()
    identity.num_features = real.shape[1]
    distance = FrechetVideoDistance(identity, sync_on_compute=False)
    distance.update(real, real=True)
    distance.update(made, real=False)
    return distance.compute().item()
