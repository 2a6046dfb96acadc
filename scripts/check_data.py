"""Validation of a dataset before training: contents, unreadable files, and the size of an epoch.

``python -m scripts.check_data my/manifest.jsonl --frames 17 --height 64 --width 64`` decodes every file once and writes ``report.json`` and
``ratios.png`` into ``--out``. The manifest may be a folder with a folder of files per class.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.clips.class_folders import read_records
from datamodules.decoding.frames import UnreadableVideo
from modules.geometry import Clip
from scripts.cli import run
from scripts.data_statistics import FileFacts, TrainingPlan, examine, summary
from scripts.progress import parallel_map
from scripts.ratio_histogram import plot_ratios

log = logging.getLogger(__name__)

# Unreadable files to list on the terminal; report.json has all.
MAX_LISTED = 20


def examine_all(paths: Sequence[Path], whole: bool, workers: int, time_limit: float) -> dict[Path, FileFacts | str]:
    """Return the measurements of every file, or the reason why it is unreadable.

    Args:
        paths: Distinct files.
        whole: Whether to decode all frames or only the first.
        workers: Processes.
        time_limit: Seconds that decoding one file may take.
    """
    return dict(parallel_map(partial(_examine, whole, time_limit), paths, workers))


def _examine(whole: bool, time_limit: float, path: Path) -> FileFacts | str:
    try:
        return examine(path, whole, time_limit)
    except UnreadableVideo as error:
        return str(error)


def text_of(report: dict[str, Any], plan: TrainingPlan) -> str:
    """Return a report as a table of names and values."""
    files, captions, epoch = report["files"], report["captions"], report["epoch"]
    table = [("files", f"{report['rows']} lines, {files['videos']} videos, {files['pictures']} images, {files['unreadable']} unreadable")]
    if files["videos"]:
        table.append(("seconds", f"{_spread(report['seconds'])}, total {report['seconds']['total']:.6g}"))
        table.append(("frames", f"{_spread(report['frames'])}, total {report['frames']['total']}"))
        table.append(("fps", f"{_counts(report['fps'])}; {report['uneven']} videos with a variable rate"))
    table.append(("height x width", _counts(report["sizes"])))
    if captions["rows"]:
        table.append(("captions", f"{captions['rows']}, {captions['different']} distinct; characters {_spread(captions['characters'])}"))
        table.append(("words", f"{_spread(captions['words'])}; {captions['different words']} distinct"))
        table.append(("frequent words", _counts(captions["frequent words"])))
    if report["labels"]:
        table.append(("labels", _counts(report["labels"])))
    table.append(("unreadable", f"{len(report['unreadable'])} lines"))
    table += [("", f"{row['row']}: {row['reason']}") for row in report["unreadable"][:MAX_LISTED]]
    if len(report["unreadable"]) > MAX_LISTED:
        table.append(("", f"and {len(report['unreadable']) - MAX_LISTED} more, see report.json"))
    return "\n".join(f"{name:15}{value}" for name, value in [*table, *_epoch(epoch, plan)])


def _epoch(epoch: dict[str, Any], plan: TrainingPlan) -> Iterator[tuple[str, str]]:
    clip = plan.clip
    yield "clips", f"{clip.frames} x {clip.height} x {clip.width} at {clip.fps:g} fps"
    if "trouble" in epoch:
        yield "", epoch["trouble"]
        return
    yield "", f"{epoch['clips']} for training, {epoch['held out']} held out"
    yield "epoch", f"{epoch['batches']} batches of {plan.batch_size} clips on each of {plan.processes} processes"
    if not epoch["batches"]:
        yield "", "too few clips for one batch: training would refuse to start"
    shape, size = " x ".join(map(str, epoch["latent"])), epoch["latent bytes"]
    bytes_per_value = size // math.prod(epoch["latent"])
    yield (
        "latents",
        f"{shape} values of {bytes_per_value} bytes: {size / 1e3:.1f} kB per clip, {epoch['cache bytes'] / 1e6:.1f} MB in total",
    )


def _spread(values: dict[str, float]) -> str:
    return f"{values['least']:.6g} to {values['most']:.6g}, mean {values['mean']:.6g}, median {values['median']:.6g}"


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in values.items())


def check(
    manifest: str,
    *,
    where: dict[str, Any] | None = None,
    frames: int = 17,
    height: int = 64,
    width: int = 64,
    fps: float = 8.0,
    batch_size: int = TrainingPlan.batch_size,
    processes: int = TrainingPlan.processes,
    held_out_fraction: float = TrainingPlan.held_out_fraction,
    bits: int = TrainingPlan.bits,
    temporal_factor: int = TrainingPlan.temporal_factor,
    spatial_factor: int = TrainingPlan.spatial_factor,
    first_frames: bool = False,
    time_limit: float = 60.0,
    workers: int = os.cpu_count() or 1,
    out: Path = Path("check"),
) -> None:
    """Decode every file of a dataset, print statistics, and write them to report.json and ratios.png.

    Args:
        manifest: A .jsonl manifest, or a folder with a folder of files per class.
        where: Values that lines must have, such as '{"kind": "clip"}'.
        frames: Frames of a clip, 1 for images.
        height: Height of a clip.
        width: Width of a clip.
        fps: Frames per second of a clip.
        batch_size: Clips per process and step.
        processes: Training processes.
        held_out_fraction: Fraction of the files to hold out.
        bits: Bits per token of the tokenizer, for the size of a latent cache.
        temporal_factor: Frames per latent frame.
        spatial_factor: Pixels per token along a side.
        first_frames: Decode only the first frame of every video: faster, finds less.
        time_limit: Seconds that decoding one file may take.
        workers: Processes that examine files.
        out: Folder for report.json and ratios.png.
    """
    clip = Clip(frames, height, width, fps)
    plan = TrainingPlan(clip, batch_size, processes, held_out_fraction, bits, temporal_factor, spatial_factor)
    records = [record for record in read_records(manifest) if record.matches(where or {})]
    if not records:
        raise ValueError(f"no line of {manifest} has {where}")
    found = examine_all(list(dict.fromkeys(record.path for record in records)), not first_frames, workers, time_limit)
    report = summary(records, found, plan)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    plotted = plot_ratios(out / "ratios.png", [(file.height, file.width) for file in found.values() if isinstance(file, FileFacts)])
    sys.stdout.write(f"{text_of(report, plan)}\n")
    log.info("written: %s%s", out / "report.json", f" and {out / 'ratios.png'}" if plotted else "; ratios.png needs matplotlib")


if __name__ == "__main__":
    run(check)
