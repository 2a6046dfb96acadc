"""How long a training step of the transformer takes, beside its bare matrix products and attentions.

    python -m benchmarks.train_step --width 768 --layers 12 --heads 12 --threads 2 --out runs/train_step
    python -m benchmarks.train_step --size configs/size/videoar_l.yaml --frames 5 --grid 16 --batch_size 8 --attention flex --compile

The UCF-101 case by default: 5 latent frames of 8 x 8, scales 1, 2, 3, 4, 6, 8, 48 bits. A step is all that training does with a batch of
latents: corrupted contexts and self-corrected targets, forward, loss, backward, clipping, AdamW. The encoder is not part of it
(benchmarks/tokenizer.py). *Bare* repeats every linear layer and every attention of the step with the gradients of all their operands, at
the same sizes and in the same precision, and nothing else. Both take turns in one process. Utilisation is the arithmetic of the model,
three times that of its forward pass, attention counted for pairs that see each other, over the time and ``--peak_tflops``. Prints a
Markdown table; ``--out`` writes it and everything measured as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.bare import forward_and_backward, recorded
from benchmarks.sampling import seconds
from benchmarks.tokenizer import conditions
from modules.autoregression import BitCorruption, bit_loss, teacher_forcing
from modules.geometry import Layout, Pyramid
from modules.training.optim import decay_groups
from modules.transformer import ClassCondition, Execution, VideoARTransformer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Bench:
    """A random model in training."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(options.threads)
        self.device, self.bits, self.batch_size = torch.device(options.device), options.bits, options.batch_size
        self.precision = PRECISIONS[options.precision]
        self.layout = Layout(Pyramid.of(options.grid, options.grid), options.frames)
        size = {name: getattr(options, name) for name in ("width", "layers", "heads")}
        if options.size:
            settings = yaml.safe_load(options.size.read_text())["init_args"]
            size = {name: settings[name] for name in size}
        execution = Execution(options.attention, options.activation_checkpointing)
        model = VideoARTransformer(self.bits, lambda width: ClassCondition(width, (101,)), **size, execution=execution)
        self.model = model.train().to(self.device)
        self.network = torch.compile(self.model) if options.compile else self.model
        self.optimizer = torch.optim.AdamW(decay_groups(self.model), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=options.fused)
        self.latent = torch.randn(self.batch_size, self.bits, self.layout.frames, *self.layout.pyramid.sizes[-1], device=self.device)
        self.ids = torch.zeros(self.batch_size, 1, dtype=torch.long, device=self.device)

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16)

    def loss(self) -> torch.Tensor:
        batch_tokens = teacher_forcing(self.latent, BitCorruption(0.0, 0.25, 0.01, inherit=True), self.layout.pyramid)
        with self.autocast():
            return bit_loss(self.network(batch_tokens.inputs, self.layout, self.ids), batch_tokens.targets)

    def step(self) -> None:
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(options)
    network, bench.network = bench.network, bench.model
    # Flex is no function that can be watched: its pairs are those of the dense mask, and so are the bare attentions.
    bench.model.execution, execution = Execution(), bench.model.execution
    with recorded(bench.model) as calls, torch.no_grad():
        bench.loss()
    bench.network, bench.model.execution = network, execution
    times: dict[str, list[float]] = {"step": [], "bare": []}
    for turn in range(options.repeats + 1):  # the first turn warms up
        for name, work in {"step": bench.step, "bare": lambda: forward_and_backward(calls)}.items():
            taken = seconds(work, bench.device)
            times[name] += [taken] * bool(turn)
    return {
        "parameters": sum(parameter.numel() for parameter in bench.model.parameters()),
        "tokens": bench.layout.tokens * bench.batch_size,
        "flops": 3 * sum(call.flops for call in calls),
        "seconds": times,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if bench.device.type == "cuda" else None,
    }


def table(results: dict[str, Any]) -> str:
    step, bare = (statistics.median(results["seconds"][name]) for name in ("step", "bare"))
    ratios = [one / other for one, other in zip(results["seconds"]["step"], results["seconds"]["bare"], strict=True)]
    rate = results["flops"] / step / 1e12
    used = f", {rate / results['peak_tflops']:.1%} of {results['peak_tflops']:g}" if results["peak_tflops"] else ""
    lines = [
        f"{results['parameters'] / 1e6:.1f} M parameters, {results['tokens']} predicted tokens per step, {results['precision']}, "
        f"{results['threads']} threads of {results['device']}",
        "",
        "| | |",
        "|---|---|",
        f"| step, seconds (median of {results['repeats']}) | {step:.3f} |",
        f"| bare products and attention, seconds | {bare:.3f} |",
        f"| step over bare (least to most) | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
        f"| tokens per second | {results['tokens'] / step:.0f} |",
        f"| TFLOP/s of the model | {rate:.3f}{used} |",
    ]
    if results["peak_gib"]:
        lines.append(f"| peak memory, GiB | {results['peak_gib']:.1f} |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=Path, help="a model of configs/size instead of the next three")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--frames", type=int, default=5, help="latent frames")
    parser.add_argument("--grid", type=int, default=8, help="rows and columns of a latent frame")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--attention", choices=["dense", "flex"], default="dense")
    parser.add_argument("--activation_checkpointing", action="store_true", help="activation checkpointing")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused", action="store_true", help="AdamW as one kernel")
    parser.add_argument("--peak_tflops", type=float, help="what the device can do, for its utilisation")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="path of the results without suffix")
    return parser.parse_args()


def main() -> None:
    options = parse()
    kept = ("precision", "attention", "activation_checkpointing", "compile", "fused", "peak_tflops", "repeats", "batch_size")
    about = conditions(options) | {name: getattr(options, name) for name in kept}
    about["command"] = " ".join(["python", "-m", "benchmarks.train_step", *sys.argv[1:]])
    results = about | measure(options)
    text = table(results)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
