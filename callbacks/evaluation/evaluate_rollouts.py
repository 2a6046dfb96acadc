"""What becomes of videos that are longer than those of training."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from callbacks.evaluation.evaluate_videos import clips_of
from callbacks.evaluation.feature_extraction import Maker, Walk
from callbacks.records.provenance import evaluation_origin
from modules.metrics import Results, table
from modules.metrics.evaluation.drift import MEASURES, drift_curves, drift_rows
from modules.storage.atomic_files import write_text


class EvaluateRollouts(Callback):
    """Makes long videos at the end of ``test`` and follows sharpness, motion and colour along them.

    Writes ``drift.csv``, a row per frame, and ``results.json`` to a folder of its own. The videos have the conditions of the first test
    clips; what real clips of the trained length show stands beside them.

    Args:
        folder: Folder to write to.
        frames: Length of the videos.
        clips: Number of videos for every seed.
        repeats: Number of seeds.

    Raises:
        ValueError: If a number is not positive.
    """

    def __init__(self, folder: str, frames: int = 65, clips: int = 40, repeats: int = 1) -> None:
        if min(frames, clips, repeats) < 1:
            raise ValueError(f"frames, clips and repeats must be positive, got {frames}, {clips} and {repeats}")
        self.folder, self.frames, self.clips, self.repeats = Path(folder), frames, clips, repeats

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises ``ValueError`` if the model makes no videos, or videos of the trained length would be longer."""
        if not hasattr(pl_module, "make"):
            raise ValueError(f"EvaluateRollouts needs a model that makes videos; {type(pl_module).__name__} makes none")
        clips_of(trainer.datamodule, "test")  # type: ignore[attr-defined]
        trained = trainer.datamodule.clip.frames  # type: ignore[attr-defined]
        if self.frames < trained:
            raise ValueError(f"rollouts of {self.frames} frames are shorter than the clips of {trained} frames")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        dataset = clips_of(trainer.datamodule, "test")  # type: ignore[attr-defined]
        walk = Walk(trainer, pl_module, dataset, range(len(dataset)))
        trained = trainer.datamodule.clip.frames  # type: ignore[attr-defined]

        def mean(what: str, frames: int, make: Maker, repeat: int = 0) -> Tensor:
            curves, _ = walk.vectors(lambda video: drift_curves(video, trained - 1).flatten(1), self.clips, frames, make, repeat, what)
            return curves.mean(dim=0).view(len(MEASURES), frames)

        with isolate_rng(), trainer.precision_plugin.test_step_context():
            real = mean("real videos", trained, lambda batch: batch["video"])
            made = [
                mean(f"rollouts, seed {seed}", self.frames, lambda batch: pl_module.make(batch, self.frames), seed)  # type: ignore[operator]
                for seed in range(self.repeats)
            ]
        rows = drift_rows(real, made, self.clips)
        about = {"name": "rollouts", "frames": self.frames, "clips": self.clips, "repeats": self.repeats, "split": "test"}
        rank_zero_info(f"protocol rollouts: {self.clips} videos of {self.frames} frames for each of {self.repeats} seeds\n{table(rows)}")
        pl_module.log_dict({f"evaluation/{row.metric}/{row.of}": row.value for row in rows}, sync_dist=True)
        if trainer.is_global_zero:
            write_text(self.folder / "results.json", Results(rows, about, evaluation_origin(trainer, pl_module)).text())
            write_text(self.folder / "drift.csv", curves_text(real, torch.stack(made).mean(dim=0)))


def curves_text(real: Tensor, made: Tensor) -> str:
    """Curves ``(3, T)`` as CSV: a row per frame; real ones are shorter."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame", *(f"{kind} {measure}" for kind in ("generated", "real") for measure in MEASURES)])
    for frame, values in enumerate(made.T.tolist()):
        usual = real[:, frame].tolist() if frame < real.shape[1] else [""] * len(MEASURES)
        writer.writerow([frame, *(f"{value:.5g}" for value in values), *(f"{value:.5g}" if value != "" else "" for value in usual)])
    return text.getvalue()
