"""Cost of the paper's three stages for the 4B model: computed, not run.

    python -m benchmarks.scale --out runs/scale

Model, clips and memory are those of ``scripts.plan``; everything else follows from the assumptions below, all of which are ours. The
paper states neither batch sizes, nor budgets, nor hardware. Prints a Markdown table; ``--out`` writes it.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

from modules.planning.per_device import days
from scripts.plan import TrainingEstimate, compose, estimate

MODEL = "-c configs/videoar.yaml --model.tokenizer configs/size/tokenizer_base.yaml --model.transformer configs/size/videoar_4b.yaml"
TRAINER = "-c configs/trainer/bf16.yaml -c configs/trainer/fsdp.yaml --trainer.devices 8"

TFLOPS = 989.0  # of an H100 in bf16, dense, by its data sheet
UTILISATION = 0.4  # assumed
DISK = 2e9  # bytes per second to a shared disk, assumed
BITRATE = 2e6  # bits per second of stored video, assumed
RESTART = 600.0  # seconds from a failure to the next step, assumed
DEVICE_HOURS = 50_000.0  # of one device between two failures, assumed (the order of what is reported of runs on thousands of H100)


@dataclass(frozen=True)
class Stage:
    """Layout, batch and budget of one stage.

    Args:
        name: Its name in the paper.
        nodes: Nodes of eight devices.
        clip: Frames, height, width.
        batch: Clips per device.
        tokens: Budget, tokens to predict.
    """

    name: str
    nodes: int
    clip: tuple[int, int, int]
    batch: int
    tokens: float

    @property
    def options(self) -> str:
        """Options of ``python -m scripts.plan``."""
        sizes = " ".join(f"--data.clip.{name} {size}" for name, size in zip(("frames", "height", "width"), self.clip, strict=True))
        return f"{MODEL} {TRAINER} --trainer.num_nodes {self.nodes} {sizes} --data.batch_size {self.batch}"


STAGES = (
    Stage("I", 8, (17, 256, 256), 16, 1e12),
    Stage("II", 16, (17, 512, 512), 4, 5e11),
    Stage("III", 16, (65, 384, 672), 1, 2e11),
)


def column(stage: Stage, found: TrainingEstimate) -> dict[str, str]:
    """Values of a stage by row name."""
    flops, cost, ranks = found.flops, found.cost, found.devices.ranks
    clips = cost.clips / cost.seconds
    seconds = stage.clip[0] / 8.0
    saving = cost.checkpoint / DISK
    failure = DEVICE_HOURS * 3600 / ranks
    interval = math.sqrt(2 * saving * failure)
    lost = saving / interval + (interval / 2 + RESTART) / failure
    grid = found.layout.pyramid.sizes[-1]
    latent = 4 * 48 * found.layout.frames * grid[0] * grid[1]
    return {
        "nodes x devices": f"{stage.nodes} x 8",
        "clip": " x ".join(map(str, stage.clip)),
        "clips per step": f"{cost.clips}",
        "tokens of a clip": f"{flops.tokens:,}",
        "tokens of a step": f"{cost.clips * flops.tokens / 1e6:.2f} M",
        "GiB per device": f"{cost.memory / 2**30:.1f}",
        "PFLOP of a step, without recomputation": f"{flops.training * cost.clips / 1e15:.0f}",
        "seconds per step": f"{cost.seconds:.1f}",
        "tokens per second": f"{cost.clips * flops.tokens / cost.seconds:,.0f}",
        "budget, tokens (assumed)": f"{stage.tokens:.1g}",
        "steps": f"{stage.tokens / (cost.clips * flops.tokens):,.0f}",
        "days": f"{days(stage.tokens, flops, cost):.1f}",
        "device hours": f"{24 * ranks * days(stage.tokens, flops, cost):,.0f}",
        "clips per second": f"{clips:.0f}",
        "frames to decode per second and node": f"{clips * stage.clip[0] / stage.nodes:.0f}",
        "MB/s of compressed video, all nodes": f"{clips * seconds * BITRATE / 8e6:.0f}",
        "MB/s of latents in float32 instead": f"{clips * latent / 1e6:.0f}",
        "TB of latents of 10 M clips": f"{1e7 * latent / 1e12:.1f}",
        "GB of a checkpoint": f"{cost.checkpoint / 1e9:.1f}",
        "seconds to write it": f"{saving:.0f}",
        "hours between failures": f"{failure / 3600:.0f}",
        "best interval between checkpoints, minutes": f"{interval / 60:.0f}",
        "steps of it": f"{interval / cost.seconds:.0f}",
        "a failure costs, device hours": f"{(interval / 2 + RESTART) / 3600 * ranks:.0f}",
        "fraction of time lost to failures and checkpoints": f"{lost:.1%}",
    }


def table() -> str:
    columns = [column(stage, estimate(compose(stage.options.split()), TFLOPS, UTILISATION)) for stage in STAGES]
    lines = ["| | " + " | ".join(f"stage {stage.name}" for stage in STAGES) + " |", "|---" * (len(STAGES) + 1) + "|"]
    lines += ["| " + " | ".join([name, *(each[name] for each in columns)]) + " |" for name in columns[0]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="path of the table without suffix")
    given = parser.parse_args()
    text = table()
    if given.out:
        given.out.with_suffix(".md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
