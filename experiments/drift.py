"""Drift of trained models of moving digits over videos much longer than those of training, by long-video strategy.

    python -m experiments.drift corrected=runs/demo/4_long_clips plain=runs/plain --out docs/results/drift

Every run generates one clip per class and strategy: re-encoding the last frames, keeping the KV cache, and keeping it with the first
latent frame. Measured per frame: fraction of clips whose digit is recognised, sharpness, and change of the mean colour. Writes
``<out>.csv``, ``<out>.png``, ``<out>_clips.png`` (a clip of each) and prints a table. Needs matplotlib (``pip install matplotlib``).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from callbacks.writers.media import contact_sheet, write_png
from datamodules.digits.moving_digits import CLASSES, DigitClips
from experiments.rollout_classifier import REFERENCE, digit_curves
from experiments.tables import write_csv
from modules import VideoAR, load
from modules.autoregression import KVCacheWindow, ReEncoding
from modules.metrics import markdown_table
from scripts.cli import run
from scripts.figures import figure

log = logging.getLogger(__name__)

STRATEGIES = {
    "encoded again": ReEncoding(17, 9),
    "tokens kept": KVCacheWindow(17),
    "tokens and first frame kept": KVCacheWindow(17, sink=True),
}
MEASURES = {"digit": "digit recognised", "sharpness": "sharpness (levels)", "colour": "change of mean colour (levels)"}
BATCH = 20

Curves = Mapping[str, Mapping[str, list[float]]]


def drift(runs: list[str], *, out: Path, frames: int = 161, seed: int = 0) -> None:
    """Measure the drift of trained models over long videos.

    Args:
        runs: name=folder of runs of train.py fit on the moving digits.
        out: Path of the results without suffix.
        frames: Length of the videos; 161 are 20 seconds at 8 frames per second.
        seed: Seed of the videos.
    """
    curves, clips = {}, {}
    for name, folder in (each.split("=", 1) for each in runs):
        model = load(folder)
        for strategy, long_video in STRATEGIES.items():
            model.generation = replace(model.generation, long_video=long_video)
            starts = range(0, len(CLASSES), BATCH)
            video = torch.cat([model.generate(CLASSES[first : first + BATCH], frames, seed + first) for first in starts])
            curves[f"{name}, {strategy}"], clips[f"{name}, {strategy}"] = measure(video), video[15]
            log.info("%s, %s: generated", name, strategy)
    curves["real"] = measure(real_clips(model, frames))
    rows = [
        {f"{name}: {measure}": curve[measure][frame] for name, curve in curves.items() for measure in MEASURES} for frame in range(frames)
    ]
    write_csv(out.with_suffix(".csv"), [{"frame": frame, **row} for frame, row in enumerate(rows)])
    plot(out.with_suffix(".png"), curves)
    write_png(out.with_name(f"{out.name}_clips.png"), contact_sheet(list(clips.values()), list(clips), columns=17))
    sys.stdout.write(table(curves))


def real_clips(model: VideoAR, frames: int) -> Tensor:
    """Return a real clip per class, ``(B, 3, T, H, W)``."""
    clips = DigitClips(replace(model.clip, frames=frames), "test", len(CLASSES), seed=0, speed=1.0, wander=3)
    return torch.stack([clips[index]["video"] for index in range(len(CLASSES))])


def measure(video: Tensor) -> dict[str, list[float]]:
    """Return mean curves of clips of all classes."""
    curves = digit_curves(video, torch.arange(len(CLASSES)))
    return {name: curves[name].mean(dim=0).tolist() for name in MEASURES}


def table(curves: Curves) -> str:
    """Return means over 16 frames: after the trained length, in the middle, at the end."""
    length = len(curves["real"]["digit"])
    spans = [slice(first, first + 16) for first in (REFERENCE + 1, length // 2, length - 16)]
    header = ["", *(f"{measure}, frames {span.start}-{span.stop - 1}" for measure in MEASURES for span in spans)]
    rows = [[name, *(f"{sum(curve[measure][span]) / 16:.3g}" for measure in MEASURES for span in spans)] for name, curve in curves.items()]
    return markdown_table(header, rows)


def plot(path: Path, curves: Curves) -> None:
    with figure(path, 1, len(MEASURES), (16, 4.5)) as axes:
        for axis, (measure, title) in zip(axes[0], MEASURES.items(), strict=True):
            for name, curve in curves.items():
                smooth = torch.tensor(curve[measure]).unfold(0, 5, 1).mean(dim=1)
                axis.plot(range(2, 2 + len(smooth)), smooth, label=name, color="grey" if name == "real" else None)
            axis.axvline(REFERENCE, color="grey", linestyle=":")
            axis.set_title(title)
            axis.set_xlabel("frame (dotted: end of the trained length)")
        axes[0, 0].legend(fontsize=7)


if __name__ == "__main__":
    run(drift)
