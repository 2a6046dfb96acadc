"""Checkpoints that are either whole or not there, whatever ends a run while one is being written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from modules.storage.tensor_file import check_joined, save_whole


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old file and then takes its place, so the last good checkpoint is there at all times.

    Lightning writes to the system's temporary folder and moves the file from there, which is a copy, and can be cut short, where that
    folder is on another disk. It also holds the whole file in memory twice; this one streams it.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any | None = None) -> None:
        """
        Raises:
            ValueError: If it cannot be written, as on a full disk; the one before is kept.
        """
        save_whole(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *options: Any, **named_options: Any) -> dict[str, Any]:
        """
        Raises:
            ValueError: If it is a folder of shards, which only a strategy with shares reads.
        """
        check_joined(Path(path))
        return super().load_checkpoint(path, *options, **named_options)
