"""Checkpoint plugin that writes atomically."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from modules.storage.tensor_file import check_is_file, save_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the previous checkpoint and then replaces it, so a complete one exists at all times.

    Lightning writes to the system's temporary folder and moves the file. If that folder is on another disk, the move is a copy and can be
    interrupted. Lightning also holds the serialised checkpoint in memory; this plugin streams it to the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any | None = None) -> None:
        """
        Raises:
            ValueError: If it cannot be written, for example on a full disk; the previous one is kept.
        """
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *options: Any, **named_options: Any) -> dict[str, Any]:
        """
        Raises:
            ValueError: If it is a sharded checkpoint, which only the FSDP strategies read.
        """
        check_is_file(Path(path))
        return super().load_checkpoint(path, *options, **named_options)
