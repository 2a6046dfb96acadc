"""Whether a reconstruction moves: what a mean over frames does not show."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Motion(Metric):
    """PSNR by a frame's place in its group, and the error of the change from frame to frame.

    A tokenizer that was never shown enough motion repeats one picture for all frames of a latent; then the places of a group differ,
    and the error of the change comes near that of a still picture.

    Args:
        temporal_factor: Video frames per latent frame.
    """

    full_state_update = False
    squared: Tensor
    pixels: Tensor
    change: Tensor

    def __init__(self, temporal_factor: int) -> None:
        super().__init__()
        self.temporal_factor = temporal_factor
        for name, size in (("squared", temporal_factor + 1), ("pixels", temporal_factor + 1), ("change", 3)):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, video: Tensor, original: Tensor) -> None:
        """Compare ``(B, 3, T, H, W)`` uint8 videos."""
        made, true = video.float() / 255.0, original.float() / 255.0
        squared = (made - true).square().mean(dim=(1, 3, 4)).sum(dim=0).double()
        places = self._places(squared)
        self.squared.index_add_(0, places, squared)
        self.pixels.index_add_(0, places, torch.full_like(squared, len(video)))
        wrong = (made.diff(dim=2) - true.diff(dim=2)).abs()
        self.change += torch.stack([wrong.sum(), true.diff(dim=2).abs().sum(), wrong.new_tensor(wrong.numel())]).double()

    def compute(self) -> dict[str, Tensor]:
        """``psnr_first`` and ``psnr_in_group_<place>`` of all places met; ``change_error``, and ``change_of_still``, that of a still."""
        psnr = -10 * torch.log10(self.squared / self.pixels)
        names = ["psnr_first", *(f"psnr_in_group_{place}" for place in range(1, self.temporal_factor + 1))]
        result = {name: value.float() for name, value, count in zip(names, psnr, self.pixels, strict=True) if count > 0}
        wrong, moved, count = self.change
        if count > 0:
            result |= {"change_error": (wrong / count).float(), "change_of_still": (moved / count).float()}
        return result

    def _places(self, frames: Tensor) -> Tensor:
        """Place of every frame: 0 for the first, which has a latent of its own, then 1 to tau over and over."""
        numbers = torch.arange(len(frames), device=frames.device)
        return torch.where(numbers == 0, 0, (numbers - 1) % self.temporal_factor + 1)
