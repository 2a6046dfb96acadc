"""Checkpoints that are either whole or not there, whatever ends a run while one is being written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from modules.tensor_file import check_joined, sync_folder


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
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
            sync_folder(path.parent)
        except (OSError, RuntimeError) as error:  # the zip writer turns a full disk into a RuntimeError
            unfinished.unlink(missing_ok=True)
            kept = f"; {path} is still the one from before" if path.exists() else ""
            raise ValueError(f"the checkpoint {path} could not be written: {str(error).splitlines()[0]}{kept}") from error

    def load_checkpoint(self, path: str | Path, *options: Any, **named_options: Any) -> dict[str, Any]:
        """
        Raises:
            ValueError: If it is a folder of shards, which only a strategy with shares reads.
        """
        check_joined(Path(path))
        return super().load_checkpoint(path, *options, **named_options)
