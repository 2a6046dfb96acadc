"""Time of sampling, beside its roofline, beside the same model token by token, and beside the model without a KV cache.

    python -m benchmarks.sampling --width 768 --layers 12 --heads 12 --threads 2 --out runs/sampling
    python -m benchmarks.sampling --size configs/size/videoar_l.yaml --threads 2 --leave_out cacheless
    python -m benchmarks.sampling --width 768 --layers 12 --heads 8 --bits 32 --frames 1 --grid 16 --condition 32    # Infinity's layer12

The UCF-101 case by default: 5 latent frames of 8 x 8, scales 1, 2, 3, 4, 6, 8, 48 bits, guidance on. Weights are random. All variants
alternate in one process. *Roofline* repeats only the linear layers and attentions of our run, at the same sizes and with the same weights.
*Token by token* runs the same transformer with the same cache on blocks of one token: one per position of the finest grid, like a model
over a single-scale tokenizer, or one per token of ours, which gives the same bits. *Cacheless* passes the whole sequence so far through the
model for every block. The lower bound is the time to read the weights, and the attended keys and values, once per step, at the rate at
which this machine sums a large tensor. Decoding uses the paper's tokenizer, or for a single frame an image tokenizer of its size. Peak
memory is that of a fresh process that samples once. Prints a Markdown table; ``--out`` writes it and a JSON of all measurements.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.common import add_model_options, conditions, model_size, seconds, write_results
from benchmarks.roofline import Attention, Call, forward, recorded
from modules.autoregression import Guidance, Sampler
from modules.geometry import Layout, Pyramid
from modules.tokenizer import VideoTokenizer, winograd_convolutions
from modules.transformer import ClassCondition, Execution, VideoARTransformer

GIB = 2**30
PARTS = {
    "ours": "ours",
    "roofline": "roofline: products and attention",
    "tokens": "token by token, one per position",
    "all_tokens": "token by token, those of all scales",
    "cacheless": "without a cache",
}


class Bench:
    """A random transformer and the layout of the video to sample."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(options.threads)
        self.device = torch.device(options.device)
        execution = Execution(precision=options.precision, graphs=options.graphs)
        settings: dict[str, Any] = {**model_size(options), "history": options.history, "execution": execution}
        model = VideoARTransformer(options.bits, lambda width: ClassCondition(width, (2,) * options.condition), **settings)
        self.transformer = model.eval().requires_grad_(False).to(self.device)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.transformer.cast_weights(execution.dtype)
        self.sampler = Sampler(Guidance() if options.guidance else Guidance(1.0, 1.0, 1.0, 1.0))
        self.layout = Layout(Pyramid.of(options.grid, options.grid), options.frames)

    def sample(self, layout: Layout) -> None:
        ids = torch.zeros(1, self.transformer.condition.length, dtype=torch.long, device=self.device)
        for _ in self.sampler.frames(self.transformer, ids, layout, [torch.Generator().manual_seed(0)]):
            pass

    def ours(self) -> None:
        self.sample(self.layout)

    def tokens(self) -> None:
        """One block of one token per position of the frames."""
        self.one_by_one(self.layout.frames * self.layout.pyramid.areas[-1])

    def all_tokens(self) -> None:
        """One block of one token per token of ours, for the same bits."""
        self.one_by_one(self.layout.tokens)

    def one_by_one(self, tokens: int) -> None:
        self.sample(Layout(Pyramid(((1, 1),)), tokens))

    @torch.no_grad()
    def cacheless(self) -> None:
        """A separate run for every block, with the condition and all tokens so far as one block."""
        transformer, rows = self.transformer, 2 if self.sampler.guidance.strength(1, 1) != 1.0 else 1
        ids = torch.zeros(rows, transformer.condition.length, dtype=torch.long, device=self.device)
        for frame in range(self.layout.frames):
            for scale in range(self.layout.pyramid.scales):
                so_far = self.layout.block(frame, scale).stop
                whole = Layout(Pyramid(((1, so_far),)), 1)
                inputs = torch.zeros(len(ids), so_far, transformer.head.out_features, device=self.device)
                transformer.step(inputs, 0, transformer.start_decoding(transformer.condition(ids), whole))

    def calls(self) -> list[Call]:
        """Every linear layer and attention of our run, in order, with operands of the same sizes."""
        with recorded(self.transformer) as calls:
            self.ours()
        return calls


def measure(options: argparse.Namespace) -> dict[str, Any]:
    # Memory first: on Linux a process inherits the peak of its parent, which is still small here.
    peak = peak_of_ours()
    bench = Bench(options)
    calls = bench.calls()

    kinds = {"ours": bench.ours, "roofline": partial(forward, calls), "tokens": bench.tokens}
    kinds |= {"all_tokens": bench.all_tokens, "cacheless": bench.cacheless}
    kinds = {name: kind for name, kind in kinds.items() if name not in options.leave_out}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(options.repeats + 1):
        for name, kind in kinds.items():
            if turn or name in ("ours", "roofline") or options.graphs:  # their first turn warms up
                taken = seconds(kind, bench.device)
                times[name] += [taken] * bool(turn)
    steps, rate, read = bench.layout.frames * bench.layout.pyramid.scales, reading_rate(bench.device), bytes_read(bench, calls)
    return {
        "numbers": options.precision,
        "parameters": bench.parameters,
        "steps": steps,
        "tokens": bench.layout.tokens,
        "seconds": times,
        "bytes_read": read,
        "bytes_per_second": rate,
        "lower_bound": sum(read.values()) / rate,
        "decode": [] if "decode" in options.leave_out else decode(options, bench.layout),
        "peak_gib": peak,
    }


def bytes_read(bench: Bench, calls: list[Call]) -> dict[str, int]:
    """Bytes that a run must read: its weights in every step, and the attended keys and values."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in bench.transformer.state_dict().values())
    attentions = [call for call in calls if isinstance(call, Attention)]
    cached = sum(part.numel() * part.element_size() for each in attentions for part in (each.key, each.value))
    return {"weights": bench.layout.frames * bench.layout.pyramid.scales * weights, "keys and values": cached}


def reading_rate(device: torch.device) -> float:
    """Bytes per second at which a tensor of 1 GiB is summed, best of five."""
    large = torch.ones(GIB // 4, device=device)
    return GIB / min(seconds(large.sum, device) for _ in range(5))


@torch.inference_mode()
def decode(options: argparse.Namespace, layout: Layout) -> list[float]:
    """Seconds to decode the video with a tokenizer of the paper's size."""
    settings = yaml.safe_load(Path("configs/size/tokenizer_base.yaml").read_text())["init_args"]
    settings |= {"bits": options.bits, "temporal_factor": settings["temporal_factor"] if layout.frames > 1 else 1}
    tokenizer = VideoTokenizer(**settings).eval().to(options.device)
    latent = torch.randn(1, tokenizer.bits, layout.frames, *layout.pyramid.sizes[-1], device=options.device)
    with winograd_convolutions():
        times = [seconds(lambda: tokenizer.decode(latent), latent.device) for _ in range(options.repeats + 1)]
    return times[1:]


def peak_of_ours() -> float:
    """Peak memory in GiB of a fresh process that samples once."""
    command = [sys.executable, "-m", "benchmarks.sampling", *sys.argv[1:], "--peak"]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_here(options: argparse.Namespace) -> float:
    bench = Bench(options)
    bench.ours()
    peak = torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak / GIB


def table(results: dict[str, Any]) -> str:
    """A row per variant: time per clip and per step, and the median of its ratio to ours, turn by turn."""
    times, steps = results["seconds"], results["steps"]
    lines = [f"{results['parameters'] / 1e6:.1f} M parameters, {steps} steps, {results['tokens']} tokens, guided: {results['guidance']}"]
    lines += [f"{results['numbers']}, {results['threads']} threads of {results['device']}, medians of {results['repeats']}", ""]
    lines += ["| | seconds per clip (least to most) | ms per step of ours | times ours |", "|---|---|---|---|"]
    for name, taken in times.items():
        ratio = statistics.median(one / ours for one, ours in zip(taken, times["ours"], strict=True))
        middle = statistics.median(taken)
        lines.append(f"| {PARTS[name]} | {middle:.2f} ({min(taken):.2f} to {max(taken):.2f}) | {middle / steps * 1000:.1f} | {ratio:.2f} |")
    ours, bound = statistics.median(times["ours"]), results["lower_bound"]
    lines.append(f"| lower bound: weights, keys and values read once | {bound:.2f} | {bound / steps * 1000:.1f} | {bound / ours:.2f} |")
    if results["decode"]:
        decoding = statistics.median(results["decode"])
        lines.append(f"| decoding | {decoding:.2f} | | |")
        lines.append(f"| ours and decoding | {ours + decoding:.2f} | | |")
    goals = {"roofline": "of its roofline", "tokens": "of token by token", "all_tokens": "of token by token at all scales"}
    ratios = [f"{ours / statistics.median(times[name]):.2f} {what}" for name, what in goals.items() if name in times]
    ratios.append(f"{ours / bound:.1f} of the lower bound")
    return "\n".join(lines) + f"\n\nOurs takes {', '.join(ratios)}. Peak memory of sampling alone: {results['peak_gib']:.2f} GiB.\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_options(parser)
    parser.add_argument("--history", choices=["all_scales", "last_scale"], default="all_scales")
    parser.add_argument("--condition", type=int, default=1, help="tokens of the condition")
    parser.add_argument("--guidance", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--graphs", action="store_true", help="with CUDA graphs, token by token too")
    parser.add_argument(
        "--leave_out", nargs="*", choices=["tokens", "all_tokens", "cacheless", "decode"], default=[], help="variants to skip"
    )
    parser.add_argument("--peak", action="store_true", help="print only the peak memory of sampling")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.peak:
        print(peak_here(options))  # noqa: T201
        return
    about = {**conditions(options), "guidance": options.guidance, "graphs": options.graphs, "repeats": options.repeats}
    results = about | measure(options)
    write_results(options.out, table(results), results)


if __name__ == "__main__":
    main()
