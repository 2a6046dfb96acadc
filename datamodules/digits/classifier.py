"""Template matching classifier of moving digits: a metric of generated clips without a trained network."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.digits.font import draw

# Row and column signs of the classes' directions: up, down, left, right.
_STEPS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])


class DigitClassifier(Metric):
    """Accuracy of the digit and of its direction in clips of known classes.

    ``compute`` returns scalars: ``digit_middle``, the accuracy of the digit in the middle frame ``T // 2``; ``digit_all``, the same over
    all frames; ``direction``, the accuracy of the direction, NaN for clips of one frame; ``clips``, their number. It also sets
    ``digit_by_frame`` ``(T,)``, the accuracy of the digit per frame. Between two resets all clips must have the same length, and every
    process needs at least one.
    """

    full_state_update = False
    correct_by_frame: Tensor
    correct_direction: Tensor
    clips: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.digit_by_frame = torch.zeros(0)
        # Resized by the first update.
        self.add_state("correct_by_frame", torch.zeros(0), dist_reduce_fx="sum")
        self.add_state("correct_direction", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("clips", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, video: Tensor, label: Tensor) -> None:
        """Add clips.

        Args:
            video: ``(B, 3, T, H, W)`` uint8.
            label: ``(B,)`` class ids, ``digit * 4 + direction``.

        Raises:
            ValueError: If the length of the clips changes or a label is not in 0..39.
        """
        frames, height, width = video.shape[2:]
        if self.clips == 0:
            self.correct_by_frame = torch.zeros(frames, device=self.device)
        if len(self.correct_by_frame) != frames:
            raise ValueError(f"clips must have {len(self.correct_by_frame)} frames like those before, got {frames}")
        if label.min() < 0 or label.max() >= 10 * len(_STEPS):
            raise ValueError(f"labels of moving digits must be in 0..39, got {label.min().item()}..{label.max().item()}")
        digits, rows, columns = self.read(video)
        label = label.to(video.device)
        correct_digits = digits == label[:, None] // len(_STEPS)
        correct_directions = directions(rows, columns, height, width) == label % len(_STEPS)
        self.correct_by_frame = self.correct_by_frame + correct_digits.sum(dim=0).to(self.device)
        self.correct_direction = self.correct_direction + correct_directions.sum().to(self.device)
        self.clips = self.clips + len(video)

    def compute(self) -> dict[str, Tensor]:
        if self.clips == 0:
            raise ValueError("there are no clips to compute the accuracy of")
        self.digit_by_frame = self.correct_by_frame / self.clips
        frames = len(self.digit_by_frame)
        return {
            "digit_middle": self.digit_by_frame[frames // 2],
            "digit_all": self.digit_by_frame.mean(),
            "direction": self.correct_direction / self.clips if frames > 1 else torch.full_like(self.clips, torch.nan),
            "clips": self.clips,
        }

    @staticmethod
    def read(video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best matching digit and its position in every frame.

        Args:
            video: ``(B, 3, T, H, W)`` uint8.

        Returns:
            Digits, rows and columns, each ``(B, T)`` int64: 0..9 and the digit's upper left corner.
        """
        # One clip at a time, because ten correlation maps per frame need much memory.
        found = torch.stack([_match(_foreground(clip)) for clip in video])
        height, width = video.shape[-2:]
        return found // (height * width), found // width % height, found % width


def _foreground(clip: Tensor) -> Tensor:
    """Return the distance of every pixel from the frame's median colour: ``(3, T, H, W)`` uint8 to ``(T, H, W)`` float32."""
    # Not torch.median, which has no deterministic CUDA implementation.
    median = clip.flatten(2).sort(dim=2).values[:, :, clip[0, 0].numel() // 2]
    return (clip.float() - median[..., None, None].float()).norm(dim=0)


def _match(foreground: Tensor) -> Tensor:
    """Return the flat index ``(digit, row, column)`` of the best template over all shifts of the torus: ``(T, H, W)`` to ``(T,)``."""
    height, width = foreground.shape[-2:]
    templates = _templates(height, width).to(foreground.device)
    scores = torch.fft.irfft2(torch.fft.rfft2(foreground)[:, None] * templates.conj(), s=(height, width))
    return scores.flatten(1).argmax(dim=1)


@lru_cache
def _templates(height: int, width: int) -> Tensor:
    """Return the spectra of the ten digits in the upper left corner, with mean 0 and norm 1: ``(10, H, W // 2 + 1)`` complex64."""
    zeros = torch.zeros(10)
    digits = draw(torch.arange(10), zeros, zeros, height, width)
    digits = digits - digits.mean(dim=(1, 2), keepdim=True)
    return torch.fft.rfft2(digits / digits.norm(dim=(1, 2), keepdim=True)).to(torch.complex64)


def directions(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """Return directions ``(B,)`` from positions ``(B, T)``, summing the shortest steps on the torus; -1 for a clip without motion."""
    path = torch.stack([_displacement(rows, height), _displacement(columns, width)], dim=1).float()
    ahead = path @ _STEPS.T.to(path.device)
    return torch.where(ahead.amax(dim=1) > 0, ahead.argmax(dim=1), -1)


def _displacement(positions: Tensor, side: int) -> Tensor:
    return ((positions.diff(dim=1) + side // 2) % side - side // 2).sum(dim=1)
