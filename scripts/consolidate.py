"""Joins a checkpoint that is a folder of shards into the one file that one device would have written.

``python -m scripts.consolidate runs/mine/checkpoints/last.ckpt --out runs/mine/checkpoints/joined.ckpt``. The whole checkpoint must fit
into memory. No code from the folder is run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from modules.storage import sharded_checkpoint
from modules.storage.tensor_file import META, save_whole
from modules.training.fsdp import numbered
from modules.user_errors import user_error

log = logging.getLogger(__name__)


def consolidate(folder: Path, out: Path) -> None:
    """
    Raises:
        FileNotFoundError: If there is no such folder of shards.
        ValueError: If its files do not belong together, ``out`` exists, or it cannot be written.
    """
    if not (folder / META).is_file():
        raise FileNotFoundError(f"{folder} is no folder of shards: it has no {META}")
    if out.exists():
        raise ValueError(f"{out} exists already")
    tensors = {name: sharded_checkpoint.empty(entry) for name, entry in sharded_checkpoint.entries(folder).items()}
    sharded_checkpoint.read_tensors(folder, tensors)
    checkpoint = sharded_checkpoint.unite(tensors, sharded_checkpoint.read_rest(folder))
    if "optimizer_states" in checkpoint:
        checkpoint["optimizer_states"] = [numbered(state) for state in checkpoint["optimizer_states"]]
    save_whole(checkpoint, out)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Joins a checkpoint that is a folder of shards into one file.")
    parser.add_argument("folder", type=Path, help="the checkpoint, such as runs/mine/checkpoints/last.ckpt")
    parser.add_argument("--out", type=Path, required=True, help="the file; in the run's folder, it is exported and loaded like any other")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        consolidate(given.folder, given.out)
    except Exception as error:
        if (text := user_error(error)) is None:
            raise
        sys.exit(f"error: {text}")
    log.info(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, for any number of devices, scripts.export and --init_from")


if __name__ == "__main__":
    main()
