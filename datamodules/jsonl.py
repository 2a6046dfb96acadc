"""Lines of text and of JSON objects. What is wrong in them is named with file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_jsonl(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``file:line`` and content of every line that is not blank.

    Raises:
        ValueError: If the file is missing or not text, or a line is not a JSON object.
    """
    for place, line in read_lines(path):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{place}: not valid JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{place}: expected an object like {{...}}, got {line[:60]}")
        yield place, values


def read_lines(path: Path | str) -> Iterator[tuple[str, str]]:
    """``file:line`` and text of every line that is not blank, without the white space around it.

    Raises:
        ValueError: If the file is missing or not UTF-8 text.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path} (relative paths start at {Path.cwd()})")
    try:
        # Some editors begin a file with a byte order mark, which "utf-8-sig" swallows.
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def value_of(values: dict[str, Any], key: str, kinds: type | tuple[type, ...], place: str, wanted: str) -> Any:
    """A checked value, None if it is absent or null.

    Raises:
        ValueError: If it is none of ``kinds``; true and false count as numbers nowhere.
    """
    value = values.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
        raise ValueError(f'{place}: "{key}" must be {wanted}, got {json.dumps(value)}')
    return value
