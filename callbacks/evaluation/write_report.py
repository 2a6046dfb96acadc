"""The result of a test as one file: numbers, how they were measured, and the clips they speak of."""

from __future__ import annotations

import json
import math
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

from callbacks.log_videos import captions
from callbacks.records.provenance import evaluation_origin, origin
from callbacks.writers.media import contact_sheet, write_picture
from modules.batch import LatentBatch, VideoBatch
from modules.metrics import Results, Row
from modules.storage.atomic_files import write_text

SHEET_CLIPS = 6


class WriteReport(Callback):
    """Writes what ``test`` measured to a JSON file, and beside it a contact sheet of the first clips and ``results.json``.

    The file holds ``protocol`` (number and size of the clips, sampling settings, checkpoint, seed), ``metrics`` (all that was logged)
    and ``seconds``. If ``test_step`` returns ``{"videos": {kind: (B, 3, T, H, W) uint8}}`` and the data module has a method
    ``classifier()`` that returns a new metric of ``(video, label)``, every kind of video gets one, and its results stand under ``judge``.

    Args:
        path: The JSON file; the sheet has the same name and ends in ``.png``.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        self._clips = 0
        self._judges: dict[str, Metric] = {}
        self._findings: dict[str, dict[str, Tensor]] = {}
        self._rows: list[tuple[Tensor, str]] = []
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
        judge = getattr(trainer.datamodule, "classifier", None)  # type: ignore[attr-defined]
        for kind, clips in videos.items():
            if judge is not None:
                if kind not in self._judges:
                    self._judges[kind] = judge().to(pl_module.device)
                self._judges[kind].update(clips, batch["label"])
        if videos:
            self._keep_rows(videos, captions(batch))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._findings = {kind: judge.compute() for kind, judge in self._judges.items()}
        for kind, findings in self._findings.items():
            numbers = {f"test/{kind}/{name}": finding for name, finding in findings.items() if finding.ndim == 0}
            pl_module.log_dict(numbers, sync_dist=True)  # equal on all processes; said so that Lightning does not warn

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        clips = int(trainer.strategy.reduce(torch.tensor(self._clips, device=pl_module.device), reduce_op="sum"))
        if not trainer.is_global_zero:
            return
        judged = {f"test/{kind}/{name}" for kind, findings in self._findings.items() for name in findings}
        report = {
            "protocol": {"clips": clips, **protocol(trainer, pl_module)},
            "metrics": {name: _plain(metric) for name, metric in trainer.callback_metrics.items() if name not in judged},
            "judge": {kind: {name: _plain(finding) for name, finding in row.items()} for kind, row in self._findings.items()},
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        write_text(self.path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        # What differs from run to run stands in the origin: the same protocol means that numbers compare.
        shared = {name: value for name, value in report["protocol"].items() if name not in ("settings", "checkpoint")}
        results = Results(rows_of(report), {"name": "test clips", **shared}, evaluation_origin(trainer, pl_module))
        write_text(self.path.with_name("results.json"), results.text())
        if self._rows:
            sheet = contact_sheet([video for video, _ in self._rows], [text for _, text in self._rows], group=self._kinds)
            write_picture(self.path.with_suffix(".png"), sheet)
        if self._findings:
            rank_zero_info(f"protocol test clips: {clips}, judged by the data's own rule\n{table(self._findings)}")

    def _keep_rows(self, videos: dict[str, Tensor], texts: list[str]) -> None:
        """Keep clips spread over the first batches for the sheet: a row per kind of video, the caption at the first."""
        self._kinds = len(videos)
        for number in spread(len(texts), SHEET_CLIPS - len(self._rows) // self._kinds):
            for place, (kind, clips) in enumerate(videos.items()):
                self._rows.append((clips[number].cpu(), kind if place else f"{texts[number]}\n{kind}"))


def rows_of(report: dict[str, Any]) -> list[Row]:
    """The numbers of a report in the form that all evaluations share."""
    clips = report["protocol"]["clips"]
    numbers = [(name.removeprefix("test/"), "", number) for name, number in report["metrics"].items() if name.startswith("test/")]
    numbers += [(name, kind, number) for kind, row in report["judge"].items() for name, number in row.items() if name != "clips"]
    single = [found for found in numbers if not isinstance(found[2], list)]
    return [Row(name, kind, (math.nan if number is None else number,), clips=clips) for name, kind, number in single]


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` numbers, evenly spaced."""
    chosen = min(count, most)
    return [place * count // chosen for place in range(chosen)]


def protocol(trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
    """How a test was made, as plain values."""
    clip = getattr(trainer.datamodule, "clip", None)  # type: ignore[attr-defined]
    seed = os.environ.get("PL_GLOBAL_SEED")  # where Lightning's seed_everything leaves it
    return {**(asdict(clip) if clip else {}), **origin(trainer, pl_module), "seed": seed and int(seed)}


def table(findings: dict[str, dict[str, Tensor]]) -> str:
    """An aligned text table: a row per kind of video, a column per number."""
    names = [name for name, finding in next(iter(findings.values())).items() if finding.ndim == 0]
    rows = [["", *names], *([kind, *(f"{float(row[name]):.4g}" for name in names)] for kind, row in findings.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [[cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])] for cells in rows]
    return "\n".join("  ".join(cells) for cells in lines)


def _plain(finding: Tensor) -> Any:
    """Numbers as JSON knows them: what is not a number or not finite becomes null."""
    if finding.ndim:
        return [_plain(part) for part in finding]
    number = finding.item()
    return number if math.isfinite(number) else None
