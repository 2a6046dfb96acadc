"""How trained models of moving digits drift over videos much longer than those of training, by every way to grow.

    python -m experiments.drift corrected=runs/demo/4_long_clips plain=runs/plain --out docs/results/drift

Every run makes one clip per class and way: by encoding the last frames again, by keeping tokens, and by keeping tokens and the first
latent frame. Frame by frame: the share of clips whose digit is read right, the sharpness (mean difference of neighbouring pixels) and the
distance of the mean colour from that of frame 16. Writes ``<out>.csv``, ``<out>.png``, ``<out>_clips.png`` (a clip of each) and prints a
table. Needs matplotlib (``pip install matplotlib``).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from callbacks.writers.media import contact_sheet, write_picture
from datamodules.digits.classifier import DigitJudge
from datamodules.digits.moving_digits import CLASSES, DIRECTIONS, DigitClips
from modules import VideoAR, load
from modules.autoregression import KVCacheWindow, ReEncoding

WAYS = {"encoded again": ReEncoding(17, 9), "tokens kept": KVCacheWindow(17), "tokens and first frame kept": KVCacheWindow(17, sink=True)}
MEASURES = {"digit": "digit read right", "sharpness": "sharpness (levels)", "colour": "change of mean colour (levels)"}
BATCH = 20
REFERENCE = 16  # the last frame of the trained length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="name=folder of runs of train.py fit on the moving digits")
    parser.add_argument("--out", type=Path, required=True, help="path of the results without suffix")
    parser.add_argument("--frames", type=int, default=161, help="20 seconds at 8 frames per second")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    curves, clips = {}, {}
    for name, folder in (run.split("=", 1) for run in options.runs):
        model = load(folder)
        for way, long_video in WAYS.items():
            model.generation = replace(model.generation, long_video=long_video)
            video = torch.cat(list(generate(model, options.frames, options.seed)))
            curves[f"{name}, {way}"], clips[f"{name}, {way}"] = measure(video, torch.arange(len(CLASSES))), video[15]
            sys.stderr.write(f"{name}, {way}: made\n")
    real = torch.stack([clip["video"] for clip in real_clips(model, options.frames)])
    curves["real"] = measure(real, torch.arange(len(CLASSES)))
    write(options.out.with_suffix(".csv"), curves)
    plot(options.out.with_suffix(".png"), curves)
    write_picture(options.out.with_name(f"{options.out.name}_clips.png"), contact_sheet(list(clips.values()), list(clips), columns=17))
    sys.stdout.write(table(curves))


def generate(model: VideoAR, frames: int, seed: int) -> Iterator[Tensor]:
    for first in range(0, len(CLASSES), BATCH):
        yield model.generate(CLASSES[first : first + BATCH], frames, seed + first)


def real_clips(model: VideoAR, frames: int) -> Iterator[dict]:
    clips = DigitClips(replace(model.clip, frames=frames), "test", len(CLASSES), seed=0, speed=1.0, wander=3)
    return (clips[index] for index in range(len(CLASSES)))


def measure(video: Tensor, label: Tensor) -> dict[str, list[float]]:
    """Curves along the frames of ``(B, 3, T, H, W)`` uint8 clips."""
    digits, _, _ = DigitJudge.read(video)
    pixels = video.float()
    edges = pixels.diff(dim=3).abs().mean(dim=(1, 3, 4)) + pixels.diff(dim=4).abs().mean(dim=(1, 3, 4))
    colour = pixels.mean(dim=(3, 4))
    moved = (colour - colour[:, :, REFERENCE : REFERENCE + 1]).abs().mean(dim=1)
    right = (digits == label[:, None] // len(DIRECTIONS)).float()
    return {name: curve.mean(dim=0).tolist() for name, curve in zip(MEASURES, (right, edges / 2, moved), strict=True)}


def write(path: Path, curves: dict[str, dict[str, list[float]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", *(f"{name}: {measure}" for name in curves for measure in MEASURES)])
        for frame in range(len(curves["real"]["digit"])):
            writer.writerow([frame, *(f"{curve[measure][frame]:.4g}" for curve in curves.values() for measure in MEASURES)])


def table(curves: dict[str, dict[str, list[float]]]) -> str:
    """Means over 16 frames: behind the trained length, in the middle, at the end."""
    length = len(curves["real"]["digit"])
    spans = [slice(first, first + 16) for first in (REFERENCE + 1, length // 2, length - 16)]
    head = [f"{measure}, frames {span.start}-{span.stop - 1}" for measure in MEASURES for span in spans]
    lines = ["| | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 1)]
    for name, curve in curves.items():
        means = [sum(curve[measure][span]) / 16 for measure in MEASURES for span in spans]
        lines.append(f"| {name} | " + " | ".join(f"{mean:.3g}" for mean in means) + " |")
    return "\n".join(lines) + "\n"


def plot(path: Path, curves: dict[str, dict[str, list[float]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, axes = pyplot.subplots(1, len(MEASURES), figsize=(16, 4.5))
    for axis, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        for name, curve in curves.items():
            smooth = torch.tensor(curve[measure]).unfold(0, 5, 1).mean(dim=1)
            axis.plot(range(2, 2 + len(smooth)), smooth, label=name, color="grey" if name == "real" else None)
        axis.axvline(REFERENCE, color="grey", linestyle=":")
        axis.set_title(title)
        axis.set_xlabel("frame (dotted: end of the trained length)")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
