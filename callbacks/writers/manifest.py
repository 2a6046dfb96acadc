"""Manifest of a folder: a JSON line per file, maintained by all processes of a run and by later runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning import Trainer

from modules.storage.atomic_files import write_text


class Manifest:
    """Lines of a ``.jsonl`` file, keyed by ``"file"``: a later line replaces an earlier one for the same file.

    With several processes each writes its own ``<stem>.rank<n>.jsonl`` until all call :meth:`join`; the folder must be shared.

    Args:
        path: The manifest; its folder is made if missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def start(self, trainer: Trainer) -> None:
        """Load the lines of earlier runs, also of interrupted ones. Called by all processes before any adds a line."""
        self.join(trainer)
        self._own = self.path.with_suffix(f".rank{trainer.global_rank}.jsonl") if trainer.world_size > 1 else self.path
        self._lines = _read(self._own)

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the joined file, by ``"file"``."""
        return {file: json.loads(line) for file, line in _read(self.path).items()}

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write a line for each row, which has at least ``"file"``, a path relative to the manifest's folder."""
        self._lines |= {row["file"]: json.dumps(row, ensure_ascii=False) for row in rows}
        # The whole file, as lines of an earlier run may have been replaced.
        _write(self._own, self._lines)

    def join(self, trainer: Trainer) -> None:
        """Move the lines of all processes into one file. Called by all processes."""
        trainer.strategy.barrier()
        parts = sorted(self.path.parent.glob(f"{self.path.stem}.rank*.jsonl"))
        if trainer.is_global_zero and parts:
            lines = _read(self.path)
            for part in parts:
                lines |= _read(part)
            _write(self.path, lines)
            for part in parts:
                part.unlink()
        trainer.strategy.barrier()


def _read(path: Path) -> dict[str, str]:
    """Lines by ``"file"``; none if there is no manifest."""
    if not path.exists():
        return {}
    # Not splitlines, which also splits at line separators inside a text.
    lines = path.read_text(encoding="utf-8").split("\n")
    return {json.loads(line)["file"]: line for line in lines if line}


def _write(path: Path, lines: dict[str, str]) -> None:
    write_text(path, "".join(f"{line}\n" for line in lines.values()))
