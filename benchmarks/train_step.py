"""Time of a training step of the transformer, beside the roofline of its matrix products and attentions.

    python -m benchmarks.train_step --width 768 --layers 12 --heads 12 --threads 2 --out runs/train_step
    python -m benchmarks.train_step --size configs/size/videoar_l.yaml --frames 5 --grid 16 --batch_size 8 --attention flex --compile

The UCF-101 case by default: 5 latent frames of 8 x 8, scales 1, 2, 3, 4, 6, 8, 48 bits. A step is everything that training does with a
batch of latents: corrupted contexts and self-corrected targets, forward, loss, backward, clipping, AdamW. The encoder is not part of it
(benchmarks/tokenizer.py). *Roofline* repeats only the linear layers and attentions of the step with the gradients of all their operands,
at the same sizes and in the same precision. Both alternate in one process. Utilisation is the model's FLOPs, three times those of its
forward pass, attention counted for unmasked pairs, divided by the time and ``--peak_tflops``. Prints a Markdown table; ``--out`` writes it
and a JSON of all measurements.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import AbstractContextManager
from typing import Any

import torch

from benchmarks.common import add_model_options, conditions, model_size, seconds, write_results
from benchmarks.roofline import forward_and_backward, recorded
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
        execution = Execution(options.attention, options.activation_checkpointing)
        model = VideoARTransformer(self.bits, lambda width: ClassCondition(width, (101,)), **model_size(options), execution=execution)
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
    network, bench.network = bench.network, bench.model  # compiled code cannot be observed
    with recorded(bench.model) as calls, torch.no_grad():
        bench.loss()
    bench.network = network
    times: dict[str, list[float]] = {"step": [], "roofline": []}
    for turn in range(options.repeats + 1):  # the first turn warms up
        for name, work in {"step": bench.step, "roofline": lambda: forward_and_backward(calls)}.items():
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
    step, roofline = (statistics.median(results["seconds"][name]) for name in ("step", "roofline"))
    ratios = [one / other for one, other in zip(results["seconds"]["step"], results["seconds"]["roofline"], strict=True)]
    rate = results["flops"] / step / 1e12
    used = f", {rate / results['peak_tflops']:.1%} of {results['peak_tflops']:g}" if results["peak_tflops"] else ""
    lines = [
        f"{results['parameters'] / 1e6:.1f} M parameters, {results['tokens']} predicted tokens per step, {results['precision']}, "
        f"{results['threads']} threads of {results['device']}",
        "",
        "| | |",
        "|---|---|",
        f"| step, seconds (median of {results['repeats']}) | {step:.3f} |",
        f"| roofline (products and attention), seconds | {roofline:.3f} |",
        f"| step over roofline (least to most) | {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |",
        f"| tokens per second | {results['tokens'] / step:.0f} |",
        f"| TFLOP/s of the model | {rate:.3f}{used} |",
    ]
    if results["peak_gib"]:
        lines.append(f"| peak memory, GiB | {results['peak_gib']:.1f} |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--precision", choices=list(PRECISIONS), default="fp32")
    parser.add_argument("--attention", choices=["dense", "flex"], default="dense")
    parser.add_argument("--activation_checkpointing", action="store_true", help="activation checkpointing")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--fused", action="store_true", help="AdamW as one kernel")
    parser.add_argument("--peak_tflops", type=float, help="peak of the device, to print the utilisation")
    return parser.parse_args()


def main() -> None:
    options = parse()
    kept = ("precision", "attention", "activation_checkpointing", "compile", "fused", "peak_tflops", "repeats", "batch_size")
    about = conditions(options) | {name: getattr(options, name) for name in kept}
    results = about | measure(options)
    write_results(options.out, table(results), results)


if __name__ == "__main__":
    main()
