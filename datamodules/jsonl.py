"""Text files and JSON lines. Errors name file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_jsonl(path: Path | str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``file:line`` and the object of every line that is not blank.

    Raises:
        ValueError: If the file is missing or not text, or a line is not a JSON object.
    """
    for location, line in read_lines(path):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{location}: not valid JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{location}: expected an object like {{...}}, got {line[:60]}")
        yield location, values


def read_lines(path: Path | str) -> Iterator[tuple[str, str]]:
    """Yield ``file:line`` and the stripped text of every line that is not blank.

    Raises:
        ValueError: If the file is missing or not UTF-8 text.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path} (relative to {Path.cwd()})")
    try:
        # "utf-8-sig" skips a byte order mark.
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield f"{path}:{number}", line.strip()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None


def value_of(values: dict[str, Any], key: str, kinds: type | tuple[type, ...], location: str, wanted: str) -> Any:
    """Return a checked value, None if it is absent or null.

    Raises:
        ValueError: If it is not of ``kinds``; true and false are not numbers.
    """
    value = values.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
        raise ValueError(f'{location}: "{key}" must be {wanted}, got {json.dumps(value)}')
    return value
