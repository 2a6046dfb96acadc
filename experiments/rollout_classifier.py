"""Classification of generated moving digits, frame by frame."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from datamodules.digits.classifier import DigitClassifier, directions
from datamodules.digits.moving_digits import CLASSES, DIRECTIONS
from modules.batch import Requests
from modules.storage.atomic_files import write_text

WINDOW = 4  # frames over which a motion is measured
REFERENCE = 16  # the last frame of the trained length


def digit_curves(video: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Return curves ``(B, T)`` along the frames of ``(B, 3, T, H, W)`` uint8 clips; that of the direction starts at frame ``WINDOW``.

    ``digit``: 1 where the frame shows the digit of the class. ``direction``: 1 where the digit moved in the direction of the class over the
    ``WINDOW`` steps before the frame. ``colour``: mean distance of the frame's mean colour from that of frame ``REFERENCE``, in levels of
    0..255. ``sharpness``: mean absolute difference of neighbouring pixels, in levels.
    """
    digits, rows, columns = DigitClassifier.read(video)
    starts = range(video.shape[2] - WINDOW)
    moved = [directions(rows[:, i : i + WINDOW + 1], columns[:, i : i + WINDOW + 1], *video.shape[3:]) for i in starts]
    pixels = video.float()
    edges = pixels.diff(dim=3).abs().mean(dim=(1, 3, 4)) + pixels.diff(dim=4).abs().mean(dim=(1, 3, 4))
    mean = pixels.mean(dim=(3, 4))
    return {
        "digit": (digits == label[:, None] // len(DIRECTIONS)).float(),
        "direction": (torch.stack(moved, dim=1) == label[:, None] % len(DIRECTIONS)).float(),
        "colour": (mean - mean[:, :, REFERENCE : REFERENCE + 1]).abs().mean(dim=1),
        "sharpness": edges / 2,
    }


class RolloutClassifier(Callback):
    """Writes the means of :func:`digit_curves` over the clips of ``predict`` to a JSON file.

    Args:
        path: The JSON file.
        about: Fields that identify the run.
    """

    def __init__(self, path: str, about: dict[str, Any]) -> None:
        self.path, self.about = Path(path), about

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._curves: list[dict[str, Tensor]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Requests, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._curves.append(digit_curves(outputs["video"], torch.tensor([CLASSES.index(name) for name in batch["condition"]])))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        curves = {name: torch.cat([part[name] for part in self._curves]) for name in self._curves[0]}
        means = {name: curve.mean(dim=0).tolist() for name, curve in curves.items()}
        write_text(self.path, json.dumps(self.about | {"clips": len(curves["digit"])} | means))
