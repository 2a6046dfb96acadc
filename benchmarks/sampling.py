"""How long sampling takes, beside its bare products, beside the same model asked token by token, and beside the model without a cache.

    python -m benchmarks.sampling --width 768 --layers 12 --heads 12 --threads 2 --out runs/sampling
    python -m benchmarks.sampling --size configs/size/videoar_l.yaml --threads 2 --leave_out cacheless

The UCF-101 case by default: 5 latent frames of 8 x 8, scales 1, 2, 3, 4, 6, 8, 48 bits, guidance on. Weights are random. All kinds take
turns in one process. *Bare* repeats, on the same weights, every linear layer and every attention that a run of ours asked for, at the
same sizes, and nothing else. *Token by token* asks the same transformer, with the same cache, for frames of h x w blocks of one token.
*Cacheless* passes the whole sequence so far through the model for every block. The floor is the time to read the weights once per step at
the rate at which this machine sums up a large tensor. Prints a Markdown table; ``--out`` writes it and everything measured as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from benchmarks.tokenizer import conditions
from modules.autoregression import Guidance, Sampler
from modules.geometry import Layout, Pyramid
from modules.tokenizer import VideoTokenizer, fast_convolutions
from modules.transformer import ClassCondition, VideoARTransformer

GIB = 2**30
PARTS = {"ours": "ours", "bare": "bare products and attention", "tokens": "token by token", "cacheless": "without a cache"}


class Linear(NamedTuple):
    """A linear layer and its input."""

    layer: nn.Linear
    value: Tensor

    def __call__(self) -> Tensor:
        return F.linear(self.value, self.layer.weight, self.layer.bias)


class Look(NamedTuple):
    """An attention without a mask."""

    query: Tensor
    key: Tensor
    value: Tensor

    def __call__(self) -> Tensor:
        return F.scaled_dot_product_attention(self.query, self.key, self.value)


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
        model = VideoARTransformer(options.bits, lambda width: ClassCondition(width, (101,)), **size, history=options.history)
        self.transformer = model.eval().requires_grad_(False).to(self.device, getattr(torch, options.dtype))
        self.sampler = Sampler(Guidance() if options.guidance else Guidance(1.0, 1.0, 1.0, 1.0))
        self.layout = Layout(Pyramid.of(options.grid, options.grid), options.frames)

    def sample(self, layout: Layout) -> None:
        ids = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        for _ in self.sampler.frames(self.transformer, ids, layout, [torch.Generator().manual_seed(0)]):
            pass

    def ours(self) -> None:
        self.sample(self.layout)

    def tokens(self) -> None:
        """As many blocks of one token as the frames have places."""
        self.sample(Layout(Pyramid(((1, 1),)), self.layout.frames * self.layout.pyramid.areas[-1]))

    @torch.no_grad()
    def cacheless(self) -> None:
        """A run of its own for every block, in which all tokens so far are one block; the condition comes before them."""
        transformer, rows = self.transformer, 2 if self.sampler.guidance.strength(1, 1) != 1.0 else 1
        ids = torch.zeros(rows, 1, dtype=torch.long, device=self.device)
        for frame in range(self.layout.frames):
            for scale in range(self.layout.pyramid.scales):
                so_far = self.layout.block(frame, scale).stop
                whole = Layout(Pyramid(((1, so_far),)), 1)
                inputs = torch.zeros(len(ids), so_far, transformer.head.out_features, device=self.device)
                transformer.step(inputs, 0, transformer.begin(transformer.condition(ids), whole))

    def calls(self) -> list[Callable[[], Tensor]]:
        """Every linear layer and attention of a run of ours, in order, with inputs of the same sizes."""
        found: list[Callable[[], Tensor]] = []
        plain = F.scaled_dot_product_attention

        def look(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
            found.append(Look(query.clone(), key.clone(), value.clone()))
            return plain(query, key, value, attn_mask=attn_mask)

        def note(layer: nn.Module, inputs: tuple[Tensor]) -> None:
            assert isinstance(layer, nn.Linear)
            found.append(Linear(layer, torch.randn_like(inputs[0])))

        hooks = [layer.register_forward_pre_hook(note) for layer in self.transformer.modules() if isinstance(layer, nn.Linear)]
        with patch("modules.transformer.attention.F.scaled_dot_product_attention", look):
            self.ours()
        for hook in hooks:
            hook.remove()
        return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    bench = Bench(options)
    calls = bench.calls()

    @torch.no_grad()
    def bare() -> None:
        for call in calls:
            call()

    kinds = {"ours": bench.ours, "bare": bare, "tokens": bench.tokens, "cacheless": bench.cacheless}
    kinds = {name: kind for name, kind in kinds.items() if name not in options.leave_out}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(options.repeats + 1):
        for name, kind in kinds.items():
            if turn or name in ("ours", "bare"):  # their first turn warms up
                taken = seconds(kind, bench.device)
                times[name] += [taken] * bool(turn)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in bench.transformer.parameters())
    steps, rate = bench.layout.frames * bench.layout.pyramid.scales, reading_rate(bench.device)
    return {
        "parameters": sum(parameter.numel() for parameter in bench.transformer.parameters()),
        "steps": steps,
        "tokens": bench.layout.tokens,
        "seconds": times,
        "bytes_per_second": rate,
        "floor": steps * weights / rate,
        "decode": decode(options, bench.layout) if options.grid == 8 else [],
        "peak_gib": peak_gib(bench.device),
    }


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
    """Seconds to decode the video with the paper's tokenizer."""
    settings = yaml.safe_load(Path("configs/size/tokenizer_base.yaml").read_text())["init_args"]
    tokenizer = VideoTokenizer(**settings).eval().to(options.device)
    latent = torch.randn(1, tokenizer.bits, layout.frames, *layout.pyramid.sizes[-1], device=options.device)
    with fast_convolutions():
        times = [seconds(lambda: tokenizer.decode(latent), latent.device) for _ in range(options.repeats + 1)]
    return times[1:]


def peak_gib(device: torch.device) -> float:
    """Of the whole process: all kinds, and the operands of the bare products."""
    return (torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024) / GIB


def table(results: dict[str, Any]) -> str:
    """A row per kind: time per clip and per step, and how ours compares with it, turn by turn."""
    times, steps = results["seconds"], results["steps"]
    lines = [f"{results['parameters'] / 1e6:.1f} M parameters, {steps} steps, {results['tokens']} tokens, guided: {results['guidance']}"]
    lines += [f"{results['dtype']}, {results['threads']} threads of {results['device']}, medians of {results['repeats']}", ""]
    lines += ["| | seconds per clip (least to most) | ms per step of ours | times ours |", "|---|---|---|---|"]
    for name, taken in times.items():
        ratio = statistics.median(one / ours for one, ours in zip(taken, times["ours"], strict=True))
        middle = statistics.median(taken)
        lines.append(f"| {PARTS[name]} | {middle:.2f} ({min(taken):.2f} to {max(taken):.2f}) | {middle / steps * 1000:.1f} | {ratio:.2f} |")
    ours = statistics.median(times["ours"])
    floor = results["floor"]
    lines.append(f"| floor: weights read once per step | {floor:.2f} | {floor / steps * 1000:.1f} | {floor / ours:.2f} |")
    if results["decode"]:
        decoding = statistics.median(results["decode"])
        lines.append(f"| decoding with the paper's tokenizer | {decoding:.2f} | | |")
        lines.append(f"| ours and decoding | {ours + decoding:.2f} | | |")
    return "\n".join(lines) + f"\n\nPeak memory of the process: {results['peak_gib']:.1f} GiB.\n"


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
    parser.add_argument("--guidance", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--leave_out", nargs="*", choices=["tokens", "cacheless"], default=[], help="kinds that take too long")
    parser.add_argument("--out", type=Path, help="path of the results without suffix")
    return parser.parse_args()


def main() -> None:
    options = parse()
    about = {**conditions(options), "guidance": options.guidance, "dtype": options.dtype, "repeats": options.repeats}
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
