"""Consolidation of a sharded checkpoint into the single file that one device would have written.

``python -m scripts.consolidate runs/mine/checkpoints/last.ckpt --out runs/mine/checkpoints/joined.ckpt``
"""

from __future__ import annotations

import logging
from pathlib import Path

from modules.storage import sharded_checkpoint
from modules.storage.tensor_file import META, save_checkpoint
from modules.training.fsdp import numbered
from scripts.cli import run

log = logging.getLogger(__name__)


def consolidate(folder: Path, *, out: Path) -> None:
    """Join a checkpoint that is a folder of shards into one file.

    The whole checkpoint must fit into memory. No code from the folder is run.

    Args:
        folder: The checkpoint, such as runs/mine/checkpoints/last.ckpt.
        out: The file to write. In the run's folder it is exported and loaded like any other checkpoint.

    Raises:
        FileNotFoundError: If there is no such folder of shards.
        ValueError: If its files do not belong together, ``out`` exists, or it cannot be written.
    """
    if not (folder / META).is_file():
        raise FileNotFoundError(f"{folder} is not a folder of shards: it has no {META}")
    if out.exists():
        raise ValueError(f"{out} exists already")
    tensors = {name: sharded_checkpoint.empty(entry) for name, entry in sharded_checkpoint.entries(folder).items()}
    sharded_checkpoint.read_tensors(folder, tensors)
    checkpoint = sharded_checkpoint.join(tensors, sharded_checkpoint.read_rest(folder))
    if "optimizer_states" in checkpoint:
        checkpoint["optimizer_states"] = [numbered(state) for state in checkpoint["optimizer_states"]]
    save_checkpoint(checkpoint, out)
    log.info("%s: %.1f MB, for any number of devices, scripts.export and --init_from", out, out.stat().st_size / 1e6)


if __name__ == "__main__":
    run(consolidate)
