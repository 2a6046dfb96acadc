"""How long sampling takes, beside its bare products, beside the same model asked token by token, and beside the model without a cache.

    python -m benchmarks.sampling --width 768 --layers 12 --heads 12 --threads 2 --out runs/sampling
    python -m benchmarks.sampling --size configs/size/videoar_l.yaml --threads 2 --leave_out cacheless
    python -m benchmarks.sampling --width 768 --layers 12 --heads 8 --bits 32 --frames 1 --grid 16 --condition 32    # Infinity's layer12

The UCF-101 case by default: 5 latent frames of 8 x 8, scales 1, 2, 3, 4, 6, 8, 48 bits, guidance on. Weights are random. All kinds take
turns in one process. *Bare* repeats, on the same weights, every linear layer and every attention that a run of ours asked for, at the
same sizes, and nothing else. *Token by token* asks the same transformer, with the same cache, for blocks of one token: one for every place
of the finest grid, as a model over a tokenizer of one scale would, or one for every token of ours, which are the same bits one place at a
time. *Cacheless* passes the whole sequence so far through the model for every block. The floor is the time to read the weights, and the
keys and values that its attentions look at, once per step, at the rate at which this machine sums up a large tensor. Decoding is that of
the paper's tokenizer, or for a single frame of a picture tokenizer of its size. Peak memory is that of a fresh process that does nothing
but sample once. Prints a Markdown table; ``--out`` writes it and everything measured as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.bare import Call, Look, forward, recorded
from benchmarks.tokenizer import conditions
from modules.autoregression import Guidance, Sampler
from modules.geometry import Layout, Pyramid
from modules.tokenizer import VideoTokenizer, winograd_convolutions
from modules.transformer import ClassCondition, Execution, VideoARTransformer

GIB = 2**30
PARTS = {
    "ours": "ours",
    "bare": "bare products and attention",
    "tokens": "token by token, one per place",
    "all_tokens": "token by token, those of all scales",
    "cacheless": "without a cache",
}


class Bench:
    """A random transformer and the video that is asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(options.threads)
        self.device = torch.device(options.device)
        size = {name: getattr(options, name) for name in ("width", "layers", "heads")}
        if options.size:
            settings = yaml.safe_load(options.size.read_text())["init_args"]
            size = {name: settings[name] for name in size}
        execution = Execution(precision=options.precision, graphs=options.graphs)
        settings = {**size, "history": options.history, "execution": execution}
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
        """As many blocks of one token as the frames have places."""
        self.one_by_one(self.layout.frames * self.layout.pyramid.areas[-1])

    def all_tokens(self) -> None:
        """As many blocks of one token as ours has tokens, for the same bits."""
        self.one_by_one(self.layout.tokens)

    def one_by_one(self, tokens: int) -> None:
        self.sample(Layout(Pyramid(((1, 1),)), tokens))

    @torch.no_grad()
    def cacheless(self) -> None:
        """A run of its own for every block, in which all tokens so far are one block; the condition comes before them."""
        transformer, rows = self.transformer, 2 if self.sampler.guidance.strength(1, 1) != 1.0 else 1
        ids = torch.zeros(rows, transformer.condition.length, dtype=torch.long, device=self.device)
        for frame in range(self.layout.frames):
            for scale in range(self.layout.pyramid.scales):
                so_far = self.layout.block(frame, scale).stop
                whole = Layout(Pyramid(((1, so_far),)), 1)
                inputs = torch.zeros(len(ids), so_far, transformer.head.out_features, device=self.device)
                transformer.step(inputs, 0, transformer.start_decoding(transformer.condition(ids), whole))

    def calls(self) -> list[Call]:
        """Every linear layer and attention of a run of ours, in order, with operands of the same sizes."""
        execution, self.transformer.execution = self.transformer.execution, Execution()  # a replayed graph calls nothing
        with recorded(self.transformer) as calls:
            self.ours()
        self.transformer.execution = execution
        return calls


def measure(options: argparse.Namespace) -> dict[str, Any]:
    # Memory first: on Linux a process starts with the peak of the one that started it, which is small as yet.
    peak = peak_of_ours()
    bench = Bench(options)
    calls = bench.calls()

    kinds = {"ours": bench.ours, "bare": partial(forward, calls), "tokens": bench.tokens}
    kinds |= {"all_tokens": bench.all_tokens, "cacheless": bench.cacheless}
    kinds = {name: kind for name, kind in kinds.items() if name not in options.leave_out}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(options.repeats + 1):
        for name, kind in kinds.items():
            if turn or name in ("ours", "bare") or options.graphs:  # their first turn warms up
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
        "floor": sum(read.values()) / rate,
        "decode": [] if "decode" in options.leave_out else decode(options, bench.layout),
        "peak_gib": peak,
    }


def bytes_read(bench: Bench, calls: list[Call]) -> dict[str, int]:
    """What a run cannot but read: its weights in every step, and the keys and values that it attends to."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in bench.transformer.state_dict().values())
    looks = [call for call in calls if isinstance(call, Look)]
    cached = sum(part.numel() * part.element_size() for look in looks for part in (look.key, look.value))
    return {"weights": bench.layout.frames * bench.layout.pyramid.scales * weights, "keys and values": cached}


def seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def reading_rate(device: torch.device) -> float:
    """Bytes per second at which a tensor of a GiB is summed up, the best of five."""
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
    """A row per kind: time per clip and per step, and how ours compares with it, turn by turn."""
    times, steps = results["seconds"], results["steps"]
    lines = [f"{results['parameters'] / 1e6:.1f} M parameters, {steps} steps, {results['tokens']} tokens, guided: {results['guidance']}"]
    lines += [f"{results['numbers']}, {results['threads']} threads of {results['device']}, medians of {results['repeats']}", ""]
    lines += ["| | seconds per clip (least to most) | ms per step of ours | times ours |", "|---|---|---|---|"]
    for name, taken in times.items():
        ratio = statistics.median(one / ours for one, ours in zip(taken, times["ours"], strict=True))
        middle = statistics.median(taken)
        lines.append(f"| {PARTS[name]} | {middle:.2f} ({min(taken):.2f} to {max(taken):.2f}) | {middle / steps * 1000:.1f} | {ratio:.2f} |")
    ours, floor = statistics.median(times["ours"]), results["floor"]
    lines.append(f"| floor: weights, keys and values read once | {floor:.2f} | {floor / steps * 1000:.1f} | {floor / ours:.2f} |")
    if results["decode"]:
        decoding = statistics.median(results["decode"])
        lines.append(f"| decoding | {decoding:.2f} | | |")
        lines.append(f"| ours and decoding | {ours + decoding:.2f} | | |")
    goals = {"bare": "of its bare products", "tokens": "of token by token", "all_tokens": "of token by token at all scales"}
    shares = [f"{ours / statistics.median(times[name]):.2f} {what}" for name, what in goals.items() if name in times]
    shares.append(f"{ours / floor:.1f} of the floor")
    return "\n".join(lines) + f"\n\nOurs takes {', '.join(shares)}. Peak memory of sampling alone: {results['peak_gib']:.2f} GiB.\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=Path, help="a model of configs/size instead of the next three")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--history", choices=["all_scales", "last_scale"], default="all_scales")
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--frames", type=int, default=5, help="latent frames")
    parser.add_argument("--grid", type=int, default=8, help="rows and columns of a latent frame")
    parser.add_argument("--condition", type=int, default=1, help="tokens of the condition")
    parser.add_argument("--guidance", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--graphs", action="store_true", help="by CUDA graphs, token by token too")
    parser.add_argument(
        "--leave_out", nargs="*", choices=["tokens", "all_tokens", "cacheless", "decode"], default=[], help="what takes too long"
    )
    parser.add_argument("--out", type=Path, help="path of the results without suffix")
    parser.add_argument("--peak", action="store_true", help="print the peak memory of sampling, nothing else")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.peak:
        print(peak_here(options))  # noqa: T201
        return
    about = {**conditions(options), "guidance": options.guidance, "graphs": options.graphs, "repeats": options.repeats}
    about["command"] = " ".join(["python", "-m", "benchmarks.sampling", *sys.argv[1:]])
    results = about | measure(options)
    text = table(results)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
