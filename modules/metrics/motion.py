"""Motion of reconstructed video, which averages over frames do not show."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Motion(Metric):
    """PSNR by position in the group of frames of a latent frame, and the error of frame differences.

    A tokenizer trained with too little motion repeats one image for all frames of a group. PSNR then differs between the positions of a
    group, and the error of frame differences approaches that of a still video.

    Args:
        temporal_factor: Video frames per latent frame.
    """

    full_state_update = False
    squared: Tensor
    frames: Tensor
    change: Tensor

    def __init__(self, temporal_factor: int) -> None:
        super().__init__()
        self.temporal_factor = temporal_factor
        for name, size in (("squared", temporal_factor + 1), ("frames", temporal_factor + 1), ("change", 3)):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, video: Tensor, original: Tensor) -> None:
        """Add videos ``(B, 3, T, H, W)`` uint8 and their originals."""
        video, original = video.float() / 255.0, original.float() / 255.0
        squared = (video - original).square().mean(dim=(1, 3, 4)).sum(dim=0).double()
        positions = self._positions(squared)
        self.squared.index_add_(0, positions, squared)
        self.frames.index_add_(0, positions, torch.full_like(squared, len(video)))
        error = (video.diff(dim=2) - original.diff(dim=2)).abs()
        self.change += torch.stack([error.sum(), original.diff(dim=2).abs().sum(), error.new_tensor(error.numel())]).double()

    def compute(self) -> dict[str, Tensor]:
        """``psnr_first`` and ``psnr_in_group_<position>`` of all positions seen; ``change_error``, and ``change_of_still`` of a still."""
        psnr = -10 * torch.log10(self.squared / self.frames)
        names = ["psnr_first", *(f"psnr_in_group_{position}" for position in range(1, self.temporal_factor + 1))]
        result = {name: value.float() for name, value, count in zip(names, psnr, self.frames, strict=True) if count > 0}
        error, change, count = self.change
        if count > 0:
            result |= {"change_error": (error / count).float(), "change_of_still": (change / count).float()}
        return result

    def _positions(self, frames: Tensor) -> Tensor:
        """Position of each frame: 0 for the first, which has its own latent frame, then 1 to tau repeatedly."""
        index = torch.arange(len(frames), device=frames.device)
        return torch.where(index == 0, 0, (index - 1) % self.temporal_factor + 1)
