"""How far two sets of videos are from each other: the Fréchet distance between normal distributions fitted to their features."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from modules.metrics.features.video_features import VideoFeatures


class FrechetVideoDistance(FrechetInceptionDistance):
    """Fréchet distance of two sets of uint8 videos, on torchmetrics' accumulator.

    Sums are kept in float64 and added up over processes, so neither batches, nor their order, nor the number of processes matter.
    Covariances are unbiased. ``update(video, real=True)`` adds to the real side, ``real=False`` to the other one.

    Args:
        features: The network. FVD is this distance with :class:`modules.metrics.I3D`.
        settings: Those of every metric of torchmetrics, such as ``sync_on_compute``.
    """

    def __init__(self, features: VideoFeatures, **settings: Any) -> None:
        super().__init__(feature=features, normalize=False, **settings)

    def compute(self) -> Tensor:
        """The distance, float64; warns if there are fewer videos on a side than a covariance needs.

        Raises:
            ValueError: With fewer than two videos on a side.
        """
        least, dimensions = min(int(self.real_features_num_samples), int(self.fake_features_num_samples)), len(self.real_features_sum)
        if least < 2:
            raise ValueError(f"a Fréchet distance needs at least two videos on each side, got {least}")
        if least <= dimensions:
            warnings.warn(
                f"a Fréchet distance of {least} videos in {dimensions} dimensions: a covariance of full rank needs more than {dimensions}",
                stacklevel=2,
            )
        # On the CPU, as eigenvalues of general matrices are slow or inexact elsewhere.
        device = self.device
        self.to("cpu")
        distance = super().compute().to(device)
        self.to(device)
        # The square root of a nearly singular product may come out a little too large.
        return distance.clamp(min=0.0)


class _Given(VideoFeatures):
    """Takes vectors for videos."""

    title = "Fréchet distance"

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, video: Tensor) -> Tensor:
        return video.double()

    def fingerprint(self) -> str:
        return "given"

    def vectors(self, video: Tensor) -> Tensor:
        return video


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """The Fréchet distance between two sets of vectors ``(N, D)``; of this process alone, whatever others have."""
    distance = FrechetVideoDistance(_Given(real.shape[1]), sync_on_compute=False)
    distance.update(real, real=True)
    distance.update(made, real=False)
    return distance.compute().item()
