"""PSNR and SSIM of reconstructed video."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure


class FrameQuality(MetricCollection):
    """PSNR and SSIM of uint8 videos.

    ``psnr`` is computed from the mean squared error over all frames. ``psnr_of_frames`` is the mean of the frames' PSNR, which other
    projects also report; it is higher, and infinite if one frame is exact. ``ssim`` is the mean over frames.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "psnr": PeakSignalNoiseRatio(data_range=1.0),
                "psnr_of_frames": PeakSignalNoiseRatio(data_range=1.0, reduction="elementwise_mean", dim=(1, 2, 3)),
                "ssim": StructuralSimilarityIndexMeasure(data_range=1.0),
            }
        )

    def update(self, video: Tensor, original: Tensor) -> None:
        """Add videos ``(B, 3, T, H, W)`` uint8 and their originals."""
        super().update(_frames(video), _frames(original))


def _frames(video: Tensor) -> Tensor:
    return rearrange(video, "b c t h w -> (b t) c h w").float() / 255.0
