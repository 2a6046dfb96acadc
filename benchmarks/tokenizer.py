"""Speed and memory of the tokenizer's encoder and decoder, and the error of faster variants.

    python -m benchmarks.tokenizer --size base --height 128 --width 128 --frames 17 --repeats 3 --threads 1 --out runs/tokenizer_speed

Weights and clip are random. Every variant is run once and compared with plain float32. Then the variants alternate, so that other load on
the machine affects all of them. Peak memory is measured in a fresh process per variant. Prints a Markdown table; ``--out`` writes it and a
JSON of all measurements. Runs on CPU and CUDA.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from torch import Tensor

from benchmarks.common import conditions, write_results
from modules.tokenizer import VideoTokenizer
from modules.tokenizer.winograd.conv import winograd_convolutions

DIRECTIONS = ("encode", "decode")
PLAIN = "float32, contiguous"


@dataclass(frozen=True)
class Variant:
    """Settings to run encoder and decoder with."""

    layout: torch.memory_format = torch.channels_last_3d
    weights: torch.dtype = torch.float32
    inside: Callable[[], AbstractContextManager[object]] = nullcontext
    tf32: bool = False


def variants(device: str) -> dict[str, Variant]:
    ways = {PLAIN: Variant(torch.contiguous_format), "float32, channels last": Variant()}
    if device == "cpu":
        ways["float32, channels last, fast convolutions"] = Variant(inside=winograd_convolutions)
    else:
        ways["tf32, channels last"] = Variant(tf32=True)
    ways["bfloat16 by autocast, channels last"] = Variant(inside=lambda: torch.autocast(device, torch.bfloat16))
    ways["bfloat16 weights, channels last"] = Variant(weights=torch.bfloat16)
    return ways


class Bench:
    """A random tokenizer, a random clip and its latent."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(options.threads)
        self.device = options.device
        name = "base" if options.size == "full" else options.size
        self.settings = yaml.safe_load(Path(f"configs/size/tokenizer_{name}.yaml").read_text())["init_args"]
        self.tokenizers: dict[torch.dtype, VideoTokenizer] = {}
        with torch.device("meta"):
            shape, clip = VideoTokenizer(**self.settings).shape, (options.frames, options.height, options.width)
        grid = (1 + (clip[0] - 1) // shape.temporal_factor, *(side // shape.spatial_factor for side in clip[1:]))
        latent = torch.randn(1, shape.bits, *grid).sign() / shape.bits**0.5
        self.inputs = {"encode": (torch.rand(1, 3, *clip) * 2 - 1).to(self.device), "decode": latent.to(self.device)}

    def tokenizer(self, weights: torch.dtype) -> VideoTokenizer:
        if weights not in self.tokenizers:
            torch.manual_seed(0)
            self.tokenizers[weights] = VideoTokenizer(**self.settings).eval().to(weights).to(self.device)
        return self.tokenizers[weights]

    @torch.inference_mode()
    def run(self, direction: str, variant: Variant) -> Tensor:
        torch.backends.cudnn.allow_tf32 = variant.tf32
        tokenizer = self.tokenizer(variant.weights)
        network = tokenizer.encoder if direction == "encode" else tokenizer.decoder
        with variant.inside():
            result = network(self.inputs[direction].to(variant.weights).contiguous(memory_format=variant.layout))
        if self.device == "cuda":
            torch.cuda.synchronize()
        return result.float()

    def milliseconds(self, direction: str, variant: Variant) -> float:
        start = time.perf_counter()
        self.run(direction, variant)
        return (time.perf_counter() - start) * 1000 / self.inputs["encode"].shape[2]


def exactness(direction: str, result: Tensor, plain: Tensor) -> dict[str, float]:
    """PSNR of frames in [-1, 1], or the fraction of the latent's signs that differ."""
    if direction == "encode":
        return {"signs_differ": ((result > 0) != (plain > 0)).double().mean().item()}
    error = (result.double() - plain.double()).square().mean()
    return {"psnr": (10 * torch.log10(4 / error)).item(), "largest_error": (result - plain).abs().max().item()}


def measure(options: argparse.Namespace) -> list[dict[str, object]]:
    ways = variants(options.device)
    if options.variants:
        ways = {name: way for name, way in ways.items() if name == PLAIN or any(part in name for part in options.variants)}
    # Memory first: on Linux a process inherits the peak of its parent, which is still small here.
    peaks = {(direction, name): peak_of(direction, name) for direction in DIRECTIONS for name in ways}
    bench, rows = Bench(options), []
    for direction in DIRECTIONS:
        plain = bench.run(direction, ways[PLAIN])
        exact = {name: exactness(direction, bench.run(direction, way), plain) for name, way in ways.items() if name != PLAIN}
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.repeats):
            for name, way in ways.items():
                times[name].append(bench.milliseconds(direction, way))
        for name, taken in times.items():
            ratios = [one / other for one, other in zip(times[PLAIN], taken, strict=True)]
            numbers = {"ms_per_frame": statistics.median(taken), "spread": [min(taken), max(taken)], "speed_up": statistics.median(ratios)}
            numbers["peak_mib"] = peaks[direction, name]
            rows.append({"direction": direction, "variant": name, **numbers, **exact.get(name, {})})
    return rows


def peak_of(direction: str, variant: str) -> float:
    """Peak memory in MiB of a fresh process that runs only this."""
    command = [sys.executable, "-m", "benchmarks.tokenizer", *sys.argv[1:], "--only", direction, variant]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_here(options: argparse.Namespace) -> float:
    direction, name = options.only
    Bench(options).run(direction, variants(options.device)[name])
    if options.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(rows: list[dict[str, object]]) -> str:
    lines = ["| | | ms per frame | times as fast | peak MiB | compared with plain |", "|---|---|---|---|---|---|"]
    for row in rows:
        compared = f"{row['psnr']:.1f} dB" if "psnr" in row else f"{row['signs_differ']:.3%} of signs" if "signs_differ" in row else ""
        numbers = f"{row['ms_per_frame']:.1f} | {row['speed_up']:.2f} | {row['peak_mib']:.0f}"
        lines.append(f"| {row['direction']} | {row['variant']} | {numbers} | {compared} |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["full", "base", "tiny"], default="base", help="full is another name for base")
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--frames", type=int, default=17, help="1 + 4n")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", nargs="*", help="only variants whose name contains one of these, and plain float32")
    parser.add_argument("--out", type=Path, help="path of the results without suffix")
    parser.add_argument("--only", nargs=2, metavar=("DIRECTION", "VARIANT"), help="print only this variant's peak memory")
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.only:
        print(peak_here(options))  # noqa: T201
        return
    results = {**conditions(options), "rows": measure(options)}
    write_results(options.out, table(results["rows"]), results)


if __name__ == "__main__":
    main()
