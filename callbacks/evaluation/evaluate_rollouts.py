"""Drift of videos that are longer than those of training."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation.base import EvaluationCallback, reference_clips
from callbacks.evaluation.feature_extraction import FeatureExtraction, VideoFunction, real_videos
from modules.metrics import Evaluation
from modules.metrics.evaluation.drift import MEASURES, drift_curves, drift_measurements
from modules.storage.atomic_files import write_text


class EvaluateRollouts(EvaluationCallback):
    """Generates long videos at the end of ``test`` and measures sharpness, motion and colour along them.

    Writes ``drift.csv``, a row per frame, beside the entry of ``report.json``. The videos have the conditions of the first test clips.
    Curves of real clips of the trained length are measured for comparison.

    Args:
        folder: Folder for ``drift.csv``.
        frames: Length of the videos.
        clips: Number of videos per seed.
        repeats: Number of seeds.

    Raises:
        ValueError: If an argument is not positive.
    """

    def __init__(self, folder: str, frames: int = 65, clips: int = 40, repeats: int = 1) -> None:
        if min(frames, clips, repeats) < 1:
            raise ValueError(f"frames, clips and repeats must be positive, got {frames}, {clips} and {repeats}")
        self.folder, self.frames, self.clips, self.repeats = Path(folder), frames, clips, repeats

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises ``ValueError`` if the model generates no videos, or the trained length is longer than ``frames``."""
        if not hasattr(pl_module, "make"):
            raise ValueError(f"EvaluateRollouts needs a model that generates videos; {type(pl_module).__name__} does not")
        reference_clips(trainer.datamodule, "test")  # type: ignore[attr-defined]
        trained = trainer.datamodule.clip.frames  # type: ignore[attr-defined]
        if self.frames < trained:
            raise ValueError(f"rollouts of {self.frames} frames are shorter than the clips of {trained} frames")

    def evaluate(self, trainer: Trainer, pl_module: LightningModule) -> Evaluation:
        dataset = reference_clips(trainer.datamodule, "test")  # type: ignore[attr-defined]
        extraction = FeatureExtraction(trainer, pl_module, dataset, range(len(dataset)))
        trained = trainer.datamodule.clip.frames  # type: ignore[attr-defined]

        def mean_curves(title: str, frames: int, make: VideoFunction, repeat: int = 0) -> Tensor:
            curves, _ = extraction.features(
                lambda video: drift_curves(video, trained - 1).flatten(1), self.clips, frames, make, repeat, title
            )
            return curves.mean(dim=0).view(len(MEASURES), frames)

        real = mean_curves("real videos", trained, real_videos)
        generated = [
            mean_curves(f"rollouts, seed {seed}", self.frames, lambda batch: pl_module.make(batch, self.frames), seed)  # type: ignore[operator]
            for seed in range(self.repeats)
        ]
        if trainer.is_global_zero:
            write_text(self.folder / "drift.csv", curves_text(real, torch.stack(generated).mean(dim=0)))
        protocol = {"name": "rollouts", "frames": self.frames, "clips": self.clips, "repeats": self.repeats, "split": "test"}
        return Evaluation(drift_measurements(real, generated, self.clips), protocol)


def curves_text(real: Tensor, generated: Tensor) -> str:
    """Return curves ``(3, T)`` as CSV, a row per frame; real ones are shorter."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame", *(f"{kind} {measure}" for kind in ("generated", "real") for measure in MEASURES)])
    for frame in range(generated.shape[1]):
        cells = [f"{curve[frame]:.5g}" if frame < len(curve) else "" for curve in (*generated.tolist(), *real.tolist())]
        writer.writerow([frame, *cells])
    return text.getvalue()
