"""Report of a ``test`` as one JSON file, with a contact sheet."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torchmetrics import Metric

from callbacks.evaluation.base import EvaluationCallback
from callbacks.log_videos import captions
from callbacks.records.provenance import evaluation_provenance, sampling_provenance
from callbacks.writers.media import contact_sheet, write_png
from modules.batch import LatentBatch, VideoBatch
from modules.metrics import markdown_table, write_report
from modules.metrics.evaluation.report import finite

SHEET_CLIPS = 6


class WriteReport(Callback):
    """Writes all values that ``test`` measured to a JSON file, and a contact sheet of some clips.

    The file holds ``protocol`` (number and size of the clips, sampling settings, checkpoint, seed), ``metrics`` (all logged values),
    ``judge``, ``evaluations`` (those of :class:`EvaluateVideos` and :class:`EvaluateRollouts`), ``provenance`` and ``seconds``. If
    ``test_step`` returns ``{"videos": {kind: (B, 3, T, H, W) uint8}}`` and the data module has a method ``classifier()`` that returns a new
    metric of ``(video, label)``, every kind of video is classified, with the results under ``judge``.

    Args:
        path: The JSON file; the sheet has the same name with the suffix ``.png``.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        self._clips = 0
        self._classifiers: dict[str, Metric] = {}
        self._classified: dict[str, dict[str, Tensor]] = {}
        self._sheet: list[tuple[Tensor, str]] = []
        self._kinds = 1

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: VideoBatch | LatentBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._clips += len(batch["label"])
        videos = outputs.get("videos", {}) if isinstance(outputs, dict) else {}
        classifier = getattr(trainer.datamodule, "classifier", None)  # type: ignore[attr-defined]
        if classifier is not None:
            for kind, clips in videos.items():
                if kind not in self._classifiers:
                    self._classifiers[kind] = classifier().to(pl_module.device)
                self._classifiers[kind].update(clips, batch["label"])
        if videos:
            self._add_to_sheet(videos, captions(batch))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._classified = {kind: metric.compute() for kind, metric in self._classifiers.items()}
        for kind, values in self._classified.items():
            scalars = {f"test/{kind}/{name}": value for name, value in values.items() if value.ndim == 0}
            pl_module.log_dict(scalars, sync_dist=True)  # equal on all processes; sync_dist avoids Lightning's warning

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clips = int(trainer.strategy.reduce(torch.tensor(self._clips, device=pl_module.device), reduce_op="sum"))
        if not trainer.is_global_zero:
            return
        listed_below = {f"test/{kind}/{name}" for kind, values in self._classified.items() for name in values}
        evaluations = [each.evaluation for each in trainer.callbacks if isinstance(each, EvaluationCallback)]  # type: ignore[attr-defined]
        report = {
            "protocol": {"clips": clips, **protocol(trainer, pl_module)},
            "metrics": {
                name: _plain(value)
                for name, value in trainer.callback_metrics.items()
                if name not in listed_below and not name.startswith("evaluation/")
            },
            "judge": {kind: {name: _plain(value) for name, value in values.items()} for kind, values in self._classified.items()},
            "evaluations": [evaluation.plain() for evaluation in evaluations if evaluation is not None],
            "provenance": evaluation_provenance(trainer, pl_module),
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        write_report(self.path, report)
        if self._sheet:
            sheet = contact_sheet([video for video, _ in self._sheet], [text for _, text in self._sheet], group=self._kinds)
            write_png(self.path.with_suffix(".png"), sheet)
        if self._classified:
            rank_zero_info(f"protocol test clips: {clips}, classified by the data module\n{table(self._classified)}")

    def _add_to_sheet(self, videos: dict[str, Tensor], texts: list[str]) -> None:
        """Add evenly spaced clips of the first batches: a row per kind of video, the caption at the first."""
        self._kinds = len(videos)
        count = min(len(texts), SHEET_CLIPS - len(self._sheet) // self._kinds)
        for number in [position * len(texts) // count for position in range(count)]:
            for row, (kind, clips) in enumerate(videos.items()):
                self._sheet.append((clips[number].cpu(), kind if row else f"{texts[number]}\n{kind}"))


def protocol(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """Return the settings of a test as plain values."""
    clip = getattr(trainer.datamodule, "clip", None)  # type: ignore[attr-defined]
    seed = os.environ.get("PL_GLOBAL_SEED")  # set by Lightning's seed_everything
    return {**(asdict(clip) if clip else {}), **sampling_provenance(trainer, pl_module), "seed": seed and int(seed)}


def table(classified: dict[str, dict[str, Tensor]]) -> str:
    """Return a table with a row per kind of video and a column per scalar."""
    names = [name for name, value in next(iter(classified.values())).items() if value.ndim == 0]
    return markdown_table(["videos", *names], [[kind, *(f"{float(row[name]):.4g}" for name in names)] for kind, row in classified.items()])


def _plain(value: Tensor) -> Any:
    """JSON types; null for non-finite numbers."""
    return [_plain(part) for part in value] if value.ndim else finite(value.item())
