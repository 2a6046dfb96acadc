"""Lists of clips and of prompts in JSON lines. What is wrong in them is named with file and line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.jsonl import read_jsonl, value_of

# What a row of a manifest can say about a clip.
KEYS = frozenset({"path", "caption", "label", "start", "end", "height", "width"})


@dataclass(frozen=True)
class Row:
    """One clip of a manifest.

    Args:
        path: The media file.
        written: The path as the manifest writes it, the same on every machine.
        place: Manifest and line, for errors.
        caption: A text, "" if there is none.
        label: Name or number of a class, None if there is none.
        start: Seconds into the file at which the clip may start.
        end: Seconds at which it has to be over, None for the end of the file.
        values: Everything that the row says.
    """

    path: Path
    written: str
    place: str
    caption: str
    label: str | int | None
    start: float
    end: float | None
    values: dict[str, Any]

    def has(self, wanted: dict[str, str | bool | int]) -> bool:
        """Whether the row says all of this; unlike in Python, 1 is not true."""
        found = [(self.values.get(key), value) for key, value in wanted.items()]
        return all(said == value and isinstance(said, bool) == isinstance(value, bool) for said, value in found)


def read_manifest(manifest: Path | str) -> list[Row]:
    """The rows of a .jsonl file of clips, checked one by one; media files are not looked at.

    Each line holds ``{"path": ..., "caption": ..., "label": ..., "start": ..., "end": ...}``: the path relative to the manifest or
    absolute, the others optional. Further keys are kept and not checked; one that looks like a slip of the pen is warned of.

    Raises:
        ValueError: If the manifest is missing or empty, or a line is wrong.
    """
    rows = [_row(place, values, Path(manifest).parent) for place, values in read_jsonl(manifest)]
    if not rows:
        raise ValueError(f"{manifest} holds no rows")
    _warn_of_slips(rows)
    kinds = {type(row.label): row for row in rows if row.label is not None}
    if len(kinds) > 1:
        one, other = kinds[str], kinds[int]
        raise ValueError(f"labels are either names or numbers: {one.label!r} ({one.place}), but {other.label} ({other.place})")
    return rows


def _warn_of_slips(rows: list[Row]) -> None:
    places = {key: row.place for row in reversed(rows) for key in row.values}
    for key in places.keys() - KEYS:
        for meant in get_close_matches(key.strip().lower(), KEYS, n=1, cutoff=0.8):
            rank_zero_warn(f'{places[key]}: "{key}" says nothing about a clip; did you mean "{meant}"?')


def _row(place: str, values: dict[str, Any], folder: Path) -> Row:
    written = value_of(values, "path", str, place, "a path")
    if not written:
        raise ValueError(f'{place}: "path" is missing')
    start, end = (value_of(values, key, (int, float), place, "a number of seconds") for key in ("start", "end"))
    start = 0.0 if start is None else float(start)
    if not 0 <= start < math.inf or (end is not None and not start < end < math.inf):
        raise ValueError(f'{place}: "start" and "end" must satisfy 0 <= start < end, got {start:g} and {end}')
    return Row(
        path=folder / Path(written).expanduser(),
        written=written,
        place=place,
        caption=value_of(values, "caption", str, place, "a text") or "",
        label=value_of(values, "label", (str, int), place, "a class name or a whole number"),
        start=start,
        end=end if end is None else float(end),
        values=values,
    )
