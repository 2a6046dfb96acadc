"""Memory of a training step of the transformer: computed for every size and stage, measured where it fits.

    python -m benchmarks.memory --out docs/results/memory

Computed are the weights, their gradients and AdamW's two averages, 16 bytes per parameter, and every tensor that the forward pass keeps
for the backward pass, counted by running it on fake tensors. With activation checkpointing these are the inputs of the blocks and the
tensors of one recomputed block. Temporary tensors within operations and the frozen tokenizer are not counted. Attention keeps what
FlexAttention and the flash kernels keep: no matrix of all pairs, and no mask. Measured is the peak of a fresh process that trains on a
CPU in float32. Prints Markdown tables; ``--out`` writes them.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from modules.autoregression import bit_loss
from modules.geometry import Layout, Pyramid
from modules.planning import Memory, memory_of
from modules.planning.memory import STATES
from modules.training.optim import decay_groups
from modules.transformer import ClassCondition, Execution, VideoARTransformer

GIB = 2**30
BITS = 48
CARD = 80e9  # bytes of an 80 GB accelerator
SIZES = {"L": "videoar_l", "XL": "videoar_xl", "4B": "videoar_4b"}
STAGES = {
    "UCF-101, 17 x 128 x 128": Layout(Pyramid.of(8, 8), 5),
    "I, 17 x 256 x 256": Layout(Pyramid.of(16, 16), 5),
    "I, 33 x 256 x 256": Layout(Pyramid.of(16, 16), 9),
    "II, 17 x 512 x 512": Layout(Pyramid.of(32, 32), 5),
    "III, 65 x 384 x 672": Layout(Pyramid.of(24, 42), 17),
}


@dataclass(frozen=True)
class Size:
    """Width, layers and heads of a transformer."""

    width: int
    layers: int
    heads: int


MEASURED = {"35 M": Size(512, 8, 8), "125 M": Size(768, 12, 12)}


def build(size: Size, activation_checkpointing: bool) -> VideoARTransformer:
    execution = Execution("dense", activation_checkpointing)
    return VideoARTransformer(BITS, lambda width: ClassCondition(width, (101,)), size.width, size.layers, size.heads, execution=execution)


def need(size: Size, layout: Layout, activation_checkpointing: bool, bf16: bool) -> Memory:
    """Memory of a model size in a stage."""
    return memory_of(
        lambda layers, again: build(replace(size, layers=layers or size.layers), again), layout, activation_checkpointing, bf16
    )


def computed_table() -> str:
    lines = [
        "| computed, bf16-mixed | tokens | weights, gradients, AdamW | per clip | per clip, checkpointed | clips in 80 GB | checkpointed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, file in SIZES.items():
        settings = yaml.safe_load(Path(f"configs/size/{file}.yaml").read_text())["init_args"]
        size = Size(*(settings[key] for key in ("width", "layers", "heads")))
        for stage, layout in STAGES.items():
            needs = [need(size, layout, activation_checkpointing, bf16=True) for activation_checkpointing in (False, True)]
            clip = [one.per_clip + one.recomputed for one in needs]
            fits = [max(0, int((CARD - one.total(0)) // each)) for one, each in zip(needs, clip, strict=True)]
            clips = " | ".join(f"{each / GIB:.2f}" for each in clip)
            states = needs[0].parameters * STATES / GIB
            lines.append(f"| {name}, stage {stage} | {layout.tokens} | {states:.1f} | {clips} | {fits[0]} | {fits[1]} |")
    return "\n".join(lines) + "\n"


def measured_table() -> str:
    layout = STAGES["UCF-101, 17 x 128 x 128"]
    lines = [
        "| UCF-101, float32, CPU | batch | checkpointed | computed | measured | measured / computed |",
        "|---|---|---|---|---|---|",
    ]
    for name, size in MEASURED.items():
        for batch in (1, 4):
            for activation_checkpointing in (False, True):
                found = need(size, layout, activation_checkpointing, bf16=False).total(batch)
                peak = measure(size, batch, activation_checkpointing)
                how = "yes" if activation_checkpointing else "no"
                lines.append(f"| {name} | {batch} | {how} | {found / GIB:.2f} | {peak / GIB:.2f} | {peak / found:.2f} |")
    return "\n".join(lines) + "\n"


def measure(size: Size, batch: int, activation_checkpointing: bool) -> int:
    """Bytes by which two steps in a fresh process raise its peak."""
    arguments = [str(value) for value in (size.width, size.layers, size.heads, batch, int(activation_checkpointing))]
    command = [sys.executable, "-m", "benchmarks.memory", "--train", *arguments]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def train(width: int, layers: int, heads: int, batch: int, activation_checkpointing: int) -> int:
    layout = STAGES["UCF-101, 17 x 128 x 128"]
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = build(Size(width, layers, heads), bool(activation_checkpointing))
    optimizer = torch.optim.AdamW(decay_groups(model), lr=1e-4)
    for _ in range(2):
        inputs, ids = torch.randn(batch, layout.tokens, BITS), torch.zeros(batch, 1, dtype=torch.long)
        bit_loss(model(inputs, layout, ids), inputs > 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="path of the tables without suffix")
    sizes: Any = ("WIDTH", "LAYERS", "HEADS", "BATCH", "CHECKPOINTING")
    parser.add_argument("--train", nargs=5, type=int, metavar=sizes, help="print only the peak memory of this training")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.train:
        sys.stdout.write(str(train(*options.train)))
        return
    text = f"GiB. Without the frozen tokenizer.\n\n{computed_table()}\n{measured_table()}"
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
