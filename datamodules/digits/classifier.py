"""Reads digits back from clips by template matching: a measure of generated clips that needs no trained network."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torchmetrics import Metric

from datamodules.digits.font import draw

# Row and column signs of the classes' directions: up, down, left, right.
_STEPS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])


class DigitClassifier(Metric):
    """How often the digit and its direction in a clip are those of its class.

    ``compute`` returns scalars: ``digit_middle``, the share of clips whose middle frame ``T // 2`` shows the right digit; ``digit_all``,
    the same over all frames; ``direction``, the share that moves the right way, NaN for clips of one frame; ``clips``, their number.
    It also sets ``digit_by_frame``, ``(T,)``: the share of right digits frame by frame. Between two resets all clips have the same
    length, and every process needs at least one.
    """

    full_state_update = False
    right_by_frame: Tensor
    right_direction: Tensor
    clips: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.digit_by_frame = torch.zeros(0)
        # Sized by the first clips.
        self.add_state("right_by_frame", torch.zeros(0), dist_reduce_fx="sum")
        self.add_state("right_direction", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("clips", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, video: Tensor, label: Tensor) -> None:
        """Adds clips.

        Args:
            video: ``(B, 3, T, H, W)`` uint8.
            label: ``(B,)`` class ids, ``digit * 4 + direction``.

        Raises:
            ValueError: If the clips are of another length than before or a label is not in 0..39.
        """
        frames, height, width = video.shape[2:]
        if self.clips == 0:
            self.right_by_frame = torch.zeros(frames, device=self.device)
        if len(self.right_by_frame) != frames:
            raise ValueError(f"the judge has seen clips of {len(self.right_by_frame)} frames and now gets {frames}")
        if label.min() < 0 or label.max() >= 10 * len(_STEPS):
            raise ValueError(f"labels of moving digits are 0..39, got {label.min().item()}..{label.max().item()}")
        digits, rows, columns = self.read(video)
        label = label.to(video.device)
        right_digits = digits == label[:, None] // len(_STEPS)
        right_directions = directions(rows, columns, height, width) == label % len(_STEPS)
        self.right_by_frame = self.right_by_frame + right_digits.sum(dim=0).to(self.device)
        self.right_direction = self.right_direction + right_directions.sum().to(self.device)
        self.clips = self.clips + len(video)

    def compute(self) -> dict[str, Tensor]:
        if self.clips == 0:
            raise ValueError("the judge has seen no clips")
        self.digit_by_frame = self.right_by_frame / self.clips
        frames = len(self.digit_by_frame)
        return {
            "digit_middle": self.digit_by_frame[frames // 2],
            "digit_all": self.digit_by_frame.mean(),
            "direction": self.right_direction / self.clips if frames > 1 else torch.full_like(self.clips, torch.nan),
            "clips": self.clips,
        }

    @staticmethod
    def read(video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best digit and its place in every frame.

        Args:
            video: ``(B, 3, T, H, W)`` uint8.

        Returns:
            Digits, rows and columns, each ``(B, T)`` int64: 0..9 and the digit's upper left corner.
        """
        # A clip at a time, as ten correlation maps per frame are many.
        found = torch.stack([_match(_foreground(clip)) for clip in video])
        height, width = video.shape[-2:]
        return found // (height * width), found // width % height, found % width


def _foreground(clip: Tensor) -> Tensor:
    """Distance of every pixel from the frame's median colour: ``(3, T, H, W)`` uint8 to ``(T, H, W)`` float32."""
    # Not torch.median, which deterministic runs on CUDA refuse.
    median = clip.flatten(2).sort(dim=2).values[:, :, clip[0, 0].numel() // 2]
    return (clip.float() - median[..., None, None].float()).norm(dim=0)


def _match(foreground: Tensor) -> Tensor:
    """``(T, H, W)`` to ``(T,)``: the flat number ``(digit, row, column)`` of the template that fits best, over all shifts of the torus."""
    height, width = foreground.shape[-2:]
    templates = _templates(height, width).to(foreground.device)
    scores = torch.fft.irfft2(torch.fft.rfft2(foreground)[:, None] * templates.conj(), s=(height, width))
    return scores.flatten(1).argmax(dim=1)


@lru_cache
def _templates(height: int, width: int) -> Tensor:
    """Spectra of the ten digits in the upper left corner, of mean zero and norm one: ``(10, H, W // 2 + 1)`` complex64."""
    zeros = torch.zeros(10)
    digits = draw(torch.arange(10), zeros, zeros, height, width)
    digits = digits - digits.mean(dim=(1, 2), keepdim=True)
    return torch.fft.rfft2(digits / digits.norm(dim=(1, 2), keepdim=True)).to(torch.complex64)


def directions(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """``(B, T)`` places to ``(B,)`` directions, -1 for a clip that stays where it is: the sum of the shorter ways round the torus."""
    path = torch.stack([_way(rows, height), _way(columns, width)], dim=1).float()
    ahead = path @ _STEPS.T.to(path.device)
    return torch.where(ahead.amax(dim=1) > 0, ahead.argmax(dim=1), -1)


def _way(places: Tensor, side: int) -> Tensor:
    return ((places.diff(dim=1) + side // 2) % side - side // 2).sum(dim=1)
