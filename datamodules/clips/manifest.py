"""Manifests: lists of clips as JSON lines. Errors name file and line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.jsonl import read_jsonl, value_of

# Known keys of a line.
KEYS = frozenset({"path", "caption", "label", "start", "end", "height", "width"})


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a manifest.

    Args:
        path: The media file.
        listed_path: The path as written in the manifest, the same on every machine.
        location: Manifest and line, for errors.
        caption: A text, "" if absent.
        label: Name or number of a class, None if absent.
        start: Seconds into the file at which the clip may start.
        end: Seconds by which it must be over, None for the end of the file.
        values: All keys and values of the line.
    """

    path: Path
    listed_path: str
    location: str
    caption: str
    label: str | int | None
    start: float
    end: float | None
    values: dict[str, Any]

    def matches(self, wanted: dict[str, str | bool | int]) -> bool:
        """Return whether the record has all of these values; unlike in Python, 1 does not equal true."""
        found = [(self.values.get(key), value) for key, value in wanted.items()]
        return all(own == value and isinstance(own, bool) == isinstance(value, bool) for own, value in found)


def read_manifest(manifest: Path | str) -> list[ClipRecord]:
    """Return the checked records of a .jsonl file of clips; media files are not opened.

    Each line holds ``{"path": ..., "caption": ..., "label": ..., "start": ..., "end": ...}``: the path relative to the manifest or
    absolute, the others optional. Further keys are kept unchecked; one that resembles a known key causes a warning.

    Raises:
        ValueError: If the manifest is missing or empty, or a line is invalid.
    """
    records = [_record(location, values, Path(manifest).parent) for location, values in read_jsonl(manifest)]
    if not records:
        raise ValueError(f"{manifest} has no lines")
    _warn_of_typos(records)
    kinds = {type(record.label): record for record in records if record.label is not None}
    if len(kinds) > 1:
        one, other = kinds[str], kinds[int]
        raise ValueError(f"labels are either names or numbers: {one.label!r} ({one.location}), but {other.label} ({other.location})")
    return records


def _warn_of_typos(records: list[ClipRecord]) -> None:
    locations = {key: record.location for record in reversed(records) for key in record.values}
    for key in locations.keys() - KEYS:
        for meant in get_close_matches(key.strip().lower(), KEYS, n=1, cutoff=0.8):
            rank_zero_warn(f'{locations[key]}: "{key}" is not a known key; did you mean "{meant}"?')


def _record(location: str, values: dict[str, Any], folder: Path) -> ClipRecord:
    listed_path = value_of(values, "path", str, location, "a path")
    if not listed_path:
        raise ValueError(f'{location}: "path" is missing')
    start, end = (value_of(values, key, (int, float), location, "a number of seconds") for key in ("start", "end"))
    start = 0.0 if start is None else float(start)
    if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
        raise ValueError(f'{location}: "start" and "end" must satisfy 0 <= start < end, got {start:g} and {end}')
    return ClipRecord(
        path=folder / Path(listed_path).expanduser(),
        listed_path=listed_path,
        location=location,
        caption=value_of(values, "caption", str, location, "a text") or "",
        label=value_of(values, "label", (str, int), location, "a class name or a whole number"),
        start=start,
        end=end if end is None else float(end),
        values=values,
    )
