"""Looks at a data set before anything is trained on it: what there is, what cannot be read, and what a configuration makes of it.

``python -m scripts.check_data my/manifest.jsonl --frames 17 --height 64 --width 64`` decodes every file once and writes ``report.json`` and
``ratios.png`` into ``--out``. The manifest may be a folder with a folder per class too.
"""

from __future__ import annotations

import argparse
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
from datamodules.clips.manifest import ClipRecord
from datamodules.clips.unreadable import read_guarded
from datamodules.decoding.frames import UnreadableVideo
from modules.geometry import Clip
from scripts.data_statistics import Facts, Plan, examine, summary
from scripts.progress import in_threads
from scripts.ratio_histogram import ratio_histogram

log = logging.getLogger(__name__)

# Unreadable files to name on the screen; report.json has all.
SHOWN = 20


def examine_all(paths: Sequence[Path], whole: bool, workers: int, time_limit: float) -> dict[Path, Facts | str]:
    """What every file is like, or why it cannot be read.

    Args:
        paths: The files, each once.
        whole: Whether to decode all of them, not only their first frames.
        workers: Files to examine at once, each in a process of its own.
        time_limit: Seconds that one may take.
    """
    return dict(in_threads(partial(_look, whole, time_limit), paths, workers, log))


def _look(whole: bool, time_limit: float, path: Path) -> Facts | str:
    try:
        return read_guarded(time_limit, examine, path, whole)
    except UnreadableVideo as error:
        return str(error)


def text_of(report: dict[str, Any], plan: Plan) -> str:
    """A report for people."""
    files, seconds, frames, captions = report["files"], report["seconds"], report["frames"], report["captions"]
    lines = [f"{report['rows']} rows, {files['videos']} videos, {files['pictures']} pictures, {files['unreadable']} unreadable files"]
    if files["videos"]:
        lines.append(f"seconds        {_spread(seconds)}; {_long(seconds['total'])} in all")
        lines.append(f"frames         {_spread(frames)}; {frames['total']} in all")
        lines.append(f"per second     {_counts(report['fps'])}; {report['uneven']} videos at a changing rate")
    lines.append(f"rows x columns {_counts(report['sizes'])}")
    if captions["rows"]:
        lines.append(f"captions       {captions['rows']}, {captions['different']} different; characters {_spread(captions['characters'])}")
        lines.append(f"words          {_spread(captions['words'])}; {captions['different words']} different")
        lines.append(f"               {_counts(captions['frequent words'])}")
    if report["labels"]:
        lines.append(f"labels         {_counts(report['labels'])}")
    lines += [*_unreadable(report["unreadable"]), *_training(report["epoch"], plan)]
    return "\n".join(lines)


def _unreadable(rows: list[dict[str, str]]) -> Iterator[str]:
    yield f"unreadable     {len(rows)} rows"
    yield from (f"    {row['row']}: {row['reason']}" for row in rows[:SHOWN])
    if len(rows) > SHOWN:
        yield f"    and {len(rows) - SHOWN} more, see report.json"


def _training(epoch: dict[str, Any], plan: Plan) -> Iterator[str]:
    clip = plan.clip
    size = f"clips of {clip.frames} x {clip.height} x {clip.width} at {clip.fps:g} fps"
    if "trouble" in epoch:
        yield f"{size}: {epoch['trouble']}"
        return
    yield f"{size}: {epoch['clips']} to train on, {epoch['held out']} held out"
    yield f"an epoch       {epoch['batches']} batches of {plan.batch_size} clips on each of {plan.processes} processes"
    if not epoch["batches"]:
        yield "               too few clips for one batch: training would refuse to start"
    shape = " x ".join(map(str, epoch["latent"]))
    a_clip, all_clips = epoch["latent bytes"] / 1e3, epoch["cache bytes"] / 1e6
    number = epoch["latent bytes"] // math.prod(epoch["latent"])
    yield f"latents        {shape} numbers of {number} bytes: {a_clip:.1f} kB a clip, {all_clips:.1f} MB in all"


def _spread(values: dict[str, float]) -> str:
    return f"{values['least']:.6g} to {values['most']:.6g}, mean {values['mean']:.6g}, median {values['median']:.6g}"


def _long(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.2f} hours"


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in values.items())


def check(rows: Sequence[ClipRecord], plan: Plan, out: Path, *, whole: bool, workers: int, time_limit: float) -> dict[str, Any]:
    """Examines all files of a manifest and writes ``report.json`` and ``ratios.png``; returns the report."""
    found = examine_all(list(dict.fromkeys(row.path for row in rows)), whole, workers, time_limit)
    report = summary(rows, found, plan)
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sizes = [(fact.height, fact.width) for fact in found.values() if isinstance(fact, Facts)]
    ratio_histogram(sizes, f"Aspect ratios of {len(sizes)} files").save(out / "ratios.png")
    return report


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        clip = Clip(given.frames, given.height, given.width, given.fps)
        names = ("batch_size", "processes", "held_out_fraction", "bits", "temporal_factor", "spatial_factor")
        plan = Plan(clip, **{name: getattr(given, name) for name in names})
        rows = [row for row in read_records(given.manifest) if row.matches(given.where)]
        if not rows:
            raise ValueError(f"no row of {given.manifest} has {given.where}")
        report = check(rows, plan, given.out, whole=not given.first_frames, workers=given.workers, time_limit=given.time_limit)
        log.info("%s\nwritten: %s and %s", text_of(report, plan), given.out / "report.json", given.out / "ratios.png")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Decodes every file of a data set and says what there is and what is wrong.")
    parser.add_argument("manifest", help="a .jsonl manifest, or a folder with a folder of files per class")
    parser.add_argument("--where", type=json.loads, default={}, help='values that rows must have, such as \'{"kind": "clip"}\'')
    parser.add_argument("--frames", type=int, default=17, help="frames of a clip, 1 for pictures")
    parser.add_argument("--height", type=int, default=64, help="its rows")
    parser.add_argument("--width", type=int, default=64, help="its columns")
    parser.add_argument("--fps", type=float, default=8.0, help="its frames per second")
    parser.add_argument("--batch_size", type=int, default=Plan.batch_size, help="clips per process and step")
    parser.add_argument("--processes", type=int, default=Plan.processes, help="processes to train with")
    parser.add_argument("--held_out_fraction", type=float, default=Plan.held_out_fraction, help="share of the files to hold out")
    parser.add_argument("--bits", type=int, default=Plan.bits, help="the tokenizer's bits per token, for the size of a latent cache")
    parser.add_argument("--temporal_factor", type=int, default=Plan.temporal_factor, help="its frames per latent frame")
    parser.add_argument("--spatial_factor", type=int, default=Plan.spatial_factor, help="its pixels per token along a side")
    parser.add_argument("--first_frames", action="store_true", help="decode the first frame of every video only: quick, finds less")
    parser.add_argument("--time_limit", type=float, default=60.0, help="seconds that one file may take")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="files to examine at once")
    parser.add_argument("--out", type=Path, default=Path("check"), help="folder for report.json and ratios.png")
    return parser


if __name__ == "__main__":
    main()
