"""A toy tokenizer, a model over it, and the tokenizer's latents in a cache of small shards."""

import csv
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from toy_runs import CONFIGS, run

from modules.storage.latents import header

ENCODE = ("-c", CONFIGS / "encode_latents.yaml")
CACHED = ("-c", CONFIGS / "data/cached.yaml")


class Made(NamedTuple):
    """Checkpoints of a tokenizer and of a model over it, and the tokenizer's latents."""

    tokenizer: Path
    model: Path
    latents: Path


def make(folder: Path) -> Made:
    tokenizer = run("fit", "tokenizer", folder / "tokenizer")
    model = run("fit", "videoar", folder / "model", "--init_from", tokenizer)
    return Made(tokenizer, model, encode(folder / "encoded", tokenizer))


def encode(root: Path, tokenizer: Path, *more: object, shard_clips: int = 6) -> Path:
    """Run the command; returns the cache."""
    with patch.object(header, "SHARD_CLIPS", shard_clips):
        run("predict", "tokenizer", root, *ENCODE, "--ckpt_path", tokenizer, *more)
    return root / "latents"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def losses(root: Path) -> list[float]:
    """All losses of a run in the order of its steps; a resumed run has a log for each of its parts."""
    logs = sorted(root.glob("log/version_*/metrics.csv"))
    rows = [row for log in logs for row in csv.DictReader(log.read_text().splitlines())]
    return [float(row[name]) for row in rows for name in ("train/loss", "val/loss") if row.get(name)]
