"""Prompt files: requests for clips, with seed, name, length and prefix, from a list, a .txt, a .csv or a .jsonl file."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from datamodules.jsonl import read_jsonl, read_lines, value_of

KEYS = ("condition", "seed", "frames", "prefix", "prefix_frames", "prefix_start", "name", "then")
INTEGER_KEYS = {"seed", "frames", "prefix_frames"}

# A time in seconds, or "last" for the last frames of a video.
Start = float | Literal["last"]

# Characters of a condition in a file name.
MAX_SLUG_LENGTH = 40


@dataclass(frozen=True)
class Prefix:
    """Frames of a file that a clip continues.

    Args:
        path: A video or image.
        frames: Number of frames, at the rate of the clip.
        start: Time of the first one.
    """

    path: Path
    frames: int
    start: Start


@dataclass(frozen=True)
class Request:
    """A clip to generate.

    Args:
        condition: A class name or a text.
        seed: Seed of the clip's noise.
        name: File stem of the result.
        frames: Frames of the result, including the prefix.
        prefix: Frames to continue.
        location: File and line of the prompt, for error messages.
        then: Later conditions, each with the time in seconds at which it replaces the one before, in order.
    """

    condition: str
    seed: int
    name: str
    frames: int
    prefix: Prefix | None
    location: str
    then: tuple[tuple[float, str], ...] = ()

    @property
    def prefix_frames(self) -> int:
        """Number of given frames, 0 without a prefix."""
        return self.prefix.frames if self.prefix else 0


@dataclass(frozen=True)
class Defaults:
    """Values for keys that a prompt does not set.

    Args:
        frames: Frames of a clip, including the prefix.
        seed: Clip ``n`` gets seed ``seed + n``.
        samples: Clips per prompt.
        prefix: Video or image to continue.
        prefix_frames: Frames to take from a prefix.
        prefix_start: Time of the first of them.
        fps: Frames per second.
    """

    frames: int
    seed: int = 0
    samples: int = 1
    prefix: str | None = None
    prefix_frames: int = 1
    prefix_start: Start = 0.0
    fps: float = 8.0


def make_requests(prompts: str | list[str], defaults: Defaults) -> list[Request]:
    """Return every clip to generate, in order, without reading prefixes.

    Raises:
        ValueError: If a prompt is invalid, there is none, or two clips have the same name.
    """
    requests: list[Request] = []
    names: dict[str, str] = {}
    folder = Path() if isinstance(prompts, list) else Path(prompts).parent
    for location, values in _rows(prompts):
        if unknown := sorted(values.keys() - set(KEYS)):
            raise ValueError(f"{location}: unknown {', '.join(map(repr, unknown))}; the keys of a prompt are {', '.join(KEYS)}")
        for sample in range(defaults.samples):
            request = _request(location, values, folder, defaults, number=len(requests), sample=sample)
            if request.name in names:
                raise ValueError(f'{location}: the name "{request.name}" is already taken by {names[request.name]}')
            names[request.name] = location
            requests.append(request)
    if not requests:
        raise ValueError(f"there are no prompts in {prompts}")
    return requests


def conditions_of(prompts: str | list[str]) -> list[str]:
    """Return the conditions of every prompt, in order; raises ``ValueError`` if one has none."""
    found = []
    for location, values in _rows(prompts):
        found += [_condition(location, values), *(condition for _, condition in _then(location, values))]
    return found


def checked_start(start: Any, name: str) -> Start:
    """Return the start of a prefix; raises ``ValueError``, which mentions ``name``, if it is invalid."""
    if start != "last" and not (_is_number(start) and start >= 0):
        raise ValueError(f'{name} must be a time of the prefix in seconds or "last", got {start!r}')
    return start if start == "last" else float(start)


def slug(text: str) -> str:
    """Return a text as part of a file name: lower-case words joined by "-"."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:MAX_SLUG_LENGTH].rstrip("-") or "clip"


def _rows(prompts: str | list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return location and values of every prompt."""
    if isinstance(prompts, list):
        return ((f"prompts[{number}]", {"condition": text}) for number, text in enumerate(prompts))
    if prompts.endswith(".jsonl"):
        return read_jsonl(prompts)
    if prompts.endswith(".csv"):
        return _table_rows(prompts)
    if prompts.endswith(".txt"):
        return ((location, {"condition": text}) for location, text in read_lines(prompts))
    raise ValueError(f"prompts must be a .txt, .csv or .jsonl file or a list like ['a text'], got {prompts!r}")


def _table_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield location and values of every line of a table except the first, which names the columns."""
    names: list[str] = []
    for location, line in read_lines(path):
        try:
            (cells,) = csv.reader([line], strict=True, skipinitialspace=True)
        except csv.Error as error:
            raise ValueError(f"{location}: not a line of a table: {error}") from None
        if not names:
            names = [cell.strip() for cell in cells]
            if "condition" not in names:
                raise ValueError(f'{location}: the first line must name the columns, one of them "condition"; got {line[:60]}')
        elif len(cells) > len(names):
            raise ValueError(f"{location}: {len(cells)} cells, but the first line names {len(names)} columns")
        else:
            yield location, {name: _cell(name, text.strip()) for name, text in zip(names, cells, strict=False) if text.strip()}


def _cell(name: str, text: str) -> str | float:
    if name in INTEGER_KEYS and re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if name == "prefix_start" and re.fullmatch(r"-?\d+(\.\d+)?", text) else text


def _request(location: str, values: dict[str, Any], folder: Path, defaults: Defaults, *, number: int, sample: int) -> Request:
    condition = _condition(location, values)
    own_seed = _integer(location, values, "seed", 0)
    seed = defaults.seed + number if own_seed is None else own_seed + sample
    frames = _integer(location, values, "frames", 1) or defaults.frames
    prefix = _prefix(location, values, folder, defaults)
    if prefix is not None and prefix.frames >= frames:
        raise ValueError(f"{location}: a prefix of {prefix.frames} frames leaves nothing to generate in a clip of {frames}")
    name = _name(location, values) or f"{number:04d}_{slug(condition)}_seed{seed}"
    if values.get("name") and defaults.samples > 1:
        name = f"{name}_{sample}"
    then = _then(location, values)
    if then and round(then[-1][0] * defaults.fps) >= frames:
        seconds = frames / defaults.fps
        raise ValueError(f'{location}: "then" changes the condition at {then[-1][0]:g} s, but the clip ends at {seconds:g} s')
    return Request(condition, seed, name, frames, prefix, location, then)


def _condition(location: str, values: dict[str, Any]) -> str:
    condition = value_of(values, "condition", str, location, "a text")
    if condition is None:
        raise ValueError(f'{location}: "condition" is missing')
    return condition


def _then(location: str, values: dict[str, Any]) -> tuple[tuple[float, str], ...]:
    """Return the later conditions of a prompt, each with its time in seconds."""
    expected = 'a list like [[4.0, "another condition"]], with increasing times above 0'
    changes = value_of(values, "then", list, location, expected) or []
    valid = all(isinstance(pair, list) and len(pair) == 2 and _is_number(pair[0]) and isinstance(pair[1], str) for pair in changes)
    if not (valid and all(before < after for (before, _), (after, _) in pairwise([(0.0, ""), *changes]))):
        raise ValueError(f'{location}: "then" must be {expected}, got {json.dumps(changes)}')
    return tuple((float(second), condition) for second, condition in changes)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _prefix(location: str, values: dict[str, Any], folder: Path, defaults: Defaults) -> Prefix | None:
    own_path = value_of(values, "prefix", str, location, "the path of a video or image")
    frames = _integer(location, values, "prefix_frames", 0)
    start = None if values.get("prefix_start") is None else checked_start(values["prefix_start"], f'{location}: "prefix_start"')
    path = folder / Path(own_path).expanduser() if own_path else Path(defaults.prefix).expanduser() if defaults.prefix else None
    for key, value in {"prefix_frames": frames, "prefix_start": start}.items():
        if path is None and value:
            raise ValueError(f'{location}: "{key}" is {value}, but there is no prefix')
    frames = defaults.prefix_frames if frames is None else frames
    return Prefix(path, frames, defaults.prefix_start if start is None else start) if path and frames else None


def _name(location: str, values: dict[str, Any]) -> str | None:
    name = value_of(values, "name", str, location, "a file name without suffix")
    if name is not None and (name in ("", ".", "..") or name != Path(name).name):
        raise ValueError(f'{location}: "name" must be a file name without folder, got {name!r}')
    return name


def _integer(location: str, values: dict[str, Any], key: str, least: int) -> int | None:
    number = value_of(values, key, int, location, "a whole number")
    if number is not None and number < least:
        raise ValueError(f'{location}: "{key}" must be at least {least}, got {number}')
    return number
