"""Judges generated moving digits frame by frame."""

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

WINDOW = 4  # frames over which a motion is read


class RolloutJudge(Callback):
    """Writes how well the clips of ``predict`` keep what they show, along their frames.

    ``digit``: share of clips whose frame shows the right digit. ``direction``: share that moves the right way over the four steps that end
    at the frame. ``colour``: mean distance of the frame's mean colour from that of frame 16, in levels of 255.

    Args:
        path: The JSON file.
        about: What it says about the run.
    """

    def __init__(self, path: str, about: dict[str, Any]) -> None:
        self.path, self.about = Path(path), about

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._digit: list[Tensor] = []
        self._direction: list[Tensor] = []
        self._colour: list[Tensor] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Requests, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        video = outputs["video"]
        label = torch.tensor([CLASSES.index(name) for name in batch["condition"]])
        digits, rows, columns = DigitClassifier.read(video)
        self._digit.append(digits == label[:, None] // len(DIRECTIONS))
        starts = range(video.shape[2] - WINDOW)
        moved = [directions(rows[:, i : i + WINDOW + 1], columns[:, i : i + WINDOW + 1], *video.shape[3:]) for i in starts]
        self._direction.append(torch.stack(moved, dim=1) == label[:, None] % len(DIRECTIONS))
        mean = video.float().mean(dim=(3, 4))
        self._colour.append((mean - mean[:, :, 16:17]).abs().mean(dim=1))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        curves = {"digit": self._digit, "direction": self._direction, "colour": self._colour}
        found = {name: torch.cat(parts).float().mean(dim=0).tolist() for name, parts in curves.items()}
        write_text(self.path, json.dumps(self.about | {"clips": sum(map(len, self._digit))} | found))
