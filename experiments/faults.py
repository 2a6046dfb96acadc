"""Sensitivity of Fréchet distances to faults of videos, as multiples of real-vs-real.

    python -m experiments.faults --manifest fluent128/captions.jsonl --where '{skin_tone_variant: false}' --out docs/results/faults

Real videos are split at random into two halves, five times. One half gets a fault; the distance of the halves is divided by that of the
unchanged halves. Writes ``<out>.csv`` and prints a table: mean factor, and the minimum over the five splits relative to the maximum of
real-vs-real.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from datamodules.clips.dataset import FolderClips, usable_records
from datamodules.clips.manifest import read_manifest
from experiments.tables import write_csv
from modules.geometry import Clip
from modules.metrics import FrameFeatures, RandomFeatures, ScriptedFrameFeatures, frechet_distance, markdown_table
from scripts.cli import run

SPLITS = 5
BATCH = 32
GENERATOR = torch.Generator().manual_seed(0)


def perturbed(video: Tensor) -> Tensor:
    """Frames shifted by up to two pixels in each direction."""
    shifts = torch.randint(-2, 3, (len(video), video.shape[2], 2), generator=GENERATOR).tolist()
    frames = [[clip[:, time].roll(shift, (1, 2)) for time, shift in enumerate(row)] for clip, row in zip(video, shifts, strict=True)]
    return torch.stack([torch.stack(row, dim=1) for row in frames])


def shuffled(video: Tensor) -> Tensor:
    """Frames in random order."""
    return torch.stack([clip[:, torch.randperm(clip.shape[1], generator=GENERATOR)] for clip in video])


def noisy(video: Tensor) -> Tensor:
    """Gaussian noise with a standard deviation of 8 levels."""
    return (video + 8 * torch.randn(video.shape, generator=GENERATOR)).round().clamp(0, 255).to(torch.uint8)


def blurred(video: Tensor) -> Tensor:
    """Blur with weights 1 2 1 in rows and columns."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    images = F.pad(rearrange(video, "b c t h w -> (b t) c h w").float(), (1, 1, 1, 1), mode="replicate")
    return rearrange(F.conv2d(images, kernel, groups=3), "(b t) c h w -> b c t h w", b=len(video)).round().to(torch.uint8)


def tinted(video: Tensor) -> Tensor:
    """Red 8 levels up, blue 8 levels down."""
    return (video + torch.tensor([8, 0, -8]).view(3, 1, 1, 1)).clamp(0, 255).to(torch.uint8)


FAULTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda video: video,
    "frozen at the first frame": lambda video: video[:, :, :1].expand_as(video),
    "frames shuffled": shuffled,
    "frames perturbed by 2 pixels": perturbed,
    "noise of 8 levels": noisy,
    "blurred by 3 x 3": blurred,
    "tinted by 8 levels": tinted,
    "played backwards": lambda video: video.flip(2),
}


def faults(
    *,
    manifest: Path,
    out: Path,
    where: dict | None = None,
    frames: int = 17,
    size: int = 64,
    fps: float = 8.0,
    network: Path | None = None,
) -> None:
    """Measure how sensitive Fréchet distances are to faults of videos.

    Args:
        manifest: A .jsonl file as for VideoFolder.
        out: Path of the table without suffix.
        where: Values that a row must have.
        frames: Frames of a clip.
        size: Height and width of a clip.
        fps: Frames per second.
        network: A TorchScript file of an image network, instead of random convolutions.
    """
    video = read(manifest, where or {}, Clip(frames, size, size, fps))
    networks = [ScriptedFrameFeatures(str(network))] if network else [RandomFeatures(seed) for seed in range(3)]
    rows = [row for features in networks for row in measure(features, video)]
    write_csv(out.with_suffix(".csv"), rows)
    header = ("features", "fault", "factor over real vs. real", "minimum over five splits")
    sys.stdout.write(f"{len(video) // 2} videos on each side\n\n{markdown_table(header, [list(row.values()) for row in rows])}")


def read(manifest: Path, where: dict, clip: Clip) -> Tensor:
    """Return all clips of a manifest, cropped from the middle, ``(N, 3, T, H, W)`` uint8."""
    rows = usable_records([row for row in read_manifest(manifest) if row.matches(where)], clip)
    clips = FolderClips(rows, clip, {row.label: 0 for row in rows if row.label is not None})
    return torch.stack([clips[number]["video"] for number in range(len(clips))])


def measure(features: FrameFeatures, video: Tensor) -> list[dict[str, str]]:
    """Return a row per fault."""
    vectors = {name: torch.cat([features(part) for part in fault(video).split(BATCH)]) for name, fault in FAULTS.items()}
    found: dict[str, list[float]] = {name: [] for name in FAULTS}
    for split in range(SPLITS):
        halves = torch.randperm(len(video), generator=torch.Generator().manual_seed(split)).split(len(video) // 2)
        for name in FAULTS:
            found[name].append(frechet_distance(vectors["none"][halves[0]], vectors[name][halves[1]]))
    reference, highest = sum(found["none"]) / SPLITS, max(found["none"])
    return [
        {
            "features": features.title,
            "fault": name,
            "factor": f"{sum(values) / SPLITS / reference:.3g}",
            "minimum": f"{min(values) / highest:.3g}",
        }
        for name, values in found.items()
    ]


if __name__ == "__main__":
    run(faults)
