"""Which faults of videos a Fréchet distance sees, as multiples of its floor.

    python -m experiments.faults --manifest fluent128/captions.jsonl --where '{skin_tone_variant: false}' --out docs/results/faults

Real videos are split into two halves by chance, five times. One half stays as it is, the other gets a fault; the distance of the two is
divided by that of the halves as they are. Writes ``<out>.csv`` and prints a table: mean factor, and the least one over the five splits
against the greatest floor.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from einops import rearrange
from torch import Tensor

from datamodules.clips.dataset import FolderClips, usable_rows
from datamodules.clips.manifest import read_manifest
from modules.geometry import Clip
from modules.metrics import FrameFeatures, RandomFeatures, ScriptedFrameFeatures, frechet_distance

SPLITS = 5
BATCH = 32
CHANCE = torch.Generator().manual_seed(0)


def perturbed(video: Tensor) -> Tensor:
    """Every frame moved by up to two pixels each way."""
    ways = torch.randint(-2, 3, (len(video), video.shape[2], 2), generator=CHANCE).tolist()
    frames = [[clip[:, time].roll(way, (1, 2)) for time, way in enumerate(row)] for clip, row in zip(video, ways, strict=True)]
    return torch.stack([torch.stack(row, dim=1) for row in frames])


def shuffled(video: Tensor) -> Tensor:
    """Frames in an order drawn by chance."""
    return torch.stack([clip[:, torch.randperm(clip.shape[1], generator=CHANCE)] for clip in video])


def noisy(video: Tensor) -> Tensor:
    """Normal noise of 8 levels."""
    return (video + 8 * torch.randn(video.shape, generator=CHANCE)).round().clamp(0, 255).to(torch.uint8)


def blurred(video: Tensor) -> Tensor:
    """Weights 1 2 1 in rows and columns."""
    line = torch.tensor([0.25, 0.5, 0.25])
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    pictures = F.pad(rearrange(video, "b c t h w -> (b t) c h w").float(), (1, 1, 1, 1), mode="replicate")
    return rearrange(F.conv2d(pictures, kernel, groups=3), "(b t) c h w -> b c t h w", b=len(video)).round().to(torch.uint8)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="a .jsonl file as for VideoFolder")
    parser.add_argument("--where", type=yaml.safe_load, default={}, help="values that a row must have")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--network", help="a TorchScript file of a picture network, instead of random convolutions")
    parser.add_argument("--out", type=Path, required=True, help="path of the table without suffix")
    options = parser.parse_args()
    video = read(options.manifest, options.where, Clip(options.frames, options.size, options.size, options.fps))
    networks = [ScriptedFrameFeatures(options.network)] if options.network else [RandomFeatures(seed) for seed in range(3)]
    rows = [row for features in networks for row in measure(features, video)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    sys.stdout.write(table(rows, len(video) // 2))


def read(manifest: Path, where: dict, clip: Clip) -> Tensor:
    """All clips of a manifest, from the middle, ``(N, 3, T, H, W)`` uint8."""
    rows = usable_rows([row for row in read_manifest(manifest) if row.has(where)], clip)
    clips = FolderClips(rows, clip, {row.label: 0 for row in rows if row.label is not None})
    return torch.stack([clips[number]["video"] for number in range(len(clips))])


def measure(features: FrameFeatures, video: Tensor) -> list[dict[str, str]]:
    """A row per fault."""
    vectors = {name: torch.cat([features(part) for part in fault(video).split(BATCH)]) for name, fault in FAULTS.items()}
    found: dict[str, list[float]] = {name: [] for name in FAULTS}
    for split in range(SPLITS):
        halves = torch.randperm(len(video), generator=torch.Generator().manual_seed(split)).split(len(video) // 2)
        for name in FAULTS:
            found[name].append(frechet_distance(vectors["none"][halves[0]], vectors[name][halves[1]]))
    floor, highest = sum(found["none"]) / SPLITS, max(found["none"])
    return [
        {
            "features": features.title,
            "fault": name,
            "factor": f"{sum(values) / SPLITS / floor:.3g}",
            "least": f"{min(values) / highest:.3g}",
        }
        for name, values in found.items()
    ]


def table(rows: list[dict[str, str]], videos: int) -> str:
    lines = [
        f"{videos} videos on each side",
        "",
        "| features | fault | factor over the floor | least over five splits |",
        "|---|---|---|---|",
    ]
    lines += [f"| {row['features']} | {row['fault']} | {row['factor']} | {row['least']} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
