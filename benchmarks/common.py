"""Options, machine description and output files that the benchmarks share."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml


def conditions(options: argparse.Namespace) -> dict[str, object]:
    """Device, threads, versions and command: everything that another measurement must share to be comparable."""
    cpu = next((line.split(":")[1].strip() for line in cpu_info() if line.startswith("model name")), platform.processor())
    device = torch.cuda.get_device_name() if options.device == "cuda" else f"{cpu} ({torch.backends.cpu.get_cpu_capability()})"
    module = sys.modules["__main__"].__spec__
    command = " ".join(["python", "-m", module.name if module else "benchmarks", *sys.argv[1:]])
    huge = os.environ.get("THP_MEM_ALLOC_ENABLE", "0")
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    return {"device": device, "threads": options.threads, **versions, "command": command, "THP_MEM_ALLOC_ENABLE": huge}


def cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, with the device's queue empty before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Size, layout and machine of a benchmark of the transformer."""
    parser.add_argument("--size", type=Path, help="a model of configs/size, in place of the next three")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--bits", type=int, default=48)
    parser.add_argument("--frames", type=int, default=5, help="latent frames")
    parser.add_argument("--grid", type=int, default=8, help="rows and columns of a latent frame")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="path of the results without suffix")


def model_size(options: argparse.Namespace) -> dict[str, Any]:
    """Width, layers and heads, from the file ``options.size`` if it is given."""
    settings = yaml.safe_load(options.size.read_text())["init_args"] if options.size else vars(options)
    return {name: settings[name] for name in ("width", "layers", "heads")}


def write_results(out: Path | None, text: str, results: dict[str, Any]) -> None:
    """Print the table; with ``out``, also write it as ``<out>.md`` and the results as ``<out>.json``."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text(text)
        out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(text)
