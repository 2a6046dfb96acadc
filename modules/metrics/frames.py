"""How close a reconstructed video is to the original, frame by frame."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure


class FrameQuality(MetricCollection):
    """PSNR and SSIM of uint8 videos.

    ``psnr`` is that of the mean squared error over everything; ``psnr_of_frames`` the mean of the PSNR of every frame, which other
    projects report too: it is higher, and infinite if one frame is perfect. ``ssim`` is the mean over frames.
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
        """Compare ``(B, 3, T, H, W)`` uint8 videos."""
        super().update(_frames(video), _frames(original))


def _frames(video: Tensor) -> Tensor:
    return rearrange(video, "b c t h w -> (b t) c h w").float() / 255.0
