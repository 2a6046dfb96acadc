"""Prompts to requests: every clip to make, with its seed, name, length and prefix, from a list, a .txt, a .csv or a .jsonl file."""

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
NUMBERS = {"seed", "frames", "prefix_frames"}

# A second of a video, or its end: the frames up to its last one.
Start = float | Literal["last"]

# Longest part of a condition in a file name.
SLUG = 40


@dataclass(frozen=True)
class Prefix:
    """Frames of a file that a clip goes on from.

    Args:
        path: A video or picture.
        frames: Number of frames taken from it, at the rate of the clip.
        start: Where they begin.
    """

    path: Path
    frames: int
    start: Start


@dataclass(frozen=True)
class Request:
    """One clip to make.

    Args:
        condition: A class name or a text.
        seed: Seed of the clip's noise.
        name: File stem of the result.
        frames: Frames of the result, the prefix included.
        prefix: What it goes on from.
        place: Where it was asked for, for errors.
        then: Conditions that replace the first one, each with its second, in order.
    """

    condition: str
    seed: int
    name: str
    frames: int
    prefix: Prefix | None
    place: str
    then: tuple[tuple[float, str], ...] = ()

    @property
    def prefix_frames(self) -> int:
        """Frames that are given, 0 for none."""
        return self.prefix.frames if self.prefix else 0


@dataclass(frozen=True)
class Defaults:
    """What holds for prompts that do not say otherwise.

    Args:
        frames: Frames of a clip, the prefix included.
        seed: Clip ``n`` gets seed ``seed + n``.
        samples: Clips per prompt.
        prefix: Video or picture to continue from.
        prefix_frames: Frames taken from a prefix.
        prefix_start: Where in a prefix they begin.
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
    """Every clip to make, in order; prefixes are not read.

    Raises:
        ValueError: If a prompt is wrong, there is none, or two clips have one name.
    """
    requests: list[Request] = []
    names: dict[str, str] = {}
    for place, values in _lines(prompts):
        unknown = sorted(values.keys() - set(KEYS))
        if unknown:
            raise ValueError(f"{place}: unknown {', '.join(map(repr, unknown))}; a prompt has {', '.join(KEYS)}")
        folder = Path() if isinstance(prompts, list) else Path(prompts).parent
        for sample in range(defaults.samples):
            request = _request(place, values, folder, defaults, number=len(requests), sample=sample)
            if request.name in names:
                raise ValueError(f'{place}: the name "{request.name}" is already taken by {names[request.name]}')
            names[request.name] = place
            requests.append(request)
    if not requests:
        raise ValueError(f"there are no prompts in {prompts}")
    return requests


def conditions_of(prompts: str | list[str]) -> list[str]:
    """The conditions of every prompt, in order; raises ``ValueError`` if one has none."""
    found = []
    for place, values in _lines(prompts):
        found += [_condition(place, values), *(condition for _, condition in _then(values, place))]
    return found


def checked_start(start: Any, name: str) -> Start:
    """What was given as the start of a prefix under a name; raises ``ValueError`` if it is none."""
    if start != "last" and (_kind(start) != "number" or start < 0):
        raise ValueError(f'{name} must be a second of the prefix or "last", got {start!r}')
    return start if start == "last" else float(start)


def slug(text: str) -> str:
    """A text as part of a file name: words in lower case joined by "-"."""
    return re.sub(r"\W+", "-", text.lower()).strip("-")[:SLUG].rstrip("-") or "clip"


def _lines(prompts: str | list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of every prompt."""
    if isinstance(prompts, list):
        return ((f"prompts[{number}]", {"condition": text}) for number, text in enumerate(prompts))
    if prompts.endswith(".jsonl"):
        return read_jsonl(prompts)
    if prompts.endswith(".csv"):
        return _table(prompts)
    if prompts.endswith(".txt"):
        return ((place, {"condition": text}) for place, text in read_lines(prompts))
    raise ValueError(f"prompts must be a .txt, .csv or .jsonl file or a list like ['a text'], got {prompts!r}")


def _table(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and content of every line of a table but the first, which names the columns."""
    names: list[str] = []
    for place, line in read_lines(path):
        try:
            (cells,) = csv.reader([line], strict=True, skipinitialspace=True)
        except csv.Error as error:
            raise ValueError(f"{place}: not a line of a table: {error}") from None
        if not names:
            names = [cell.strip() for cell in cells]
            if "condition" not in names:
                raise ValueError(f'{place}: the first line names the columns, one of which is "condition"; got {line[:60]}')
        elif len(cells) > len(names):
            raise ValueError(f"{place}: {len(cells)} cells, but the first line names {len(names)} columns")
        else:
            yield place, {name: _cell(name, text.strip()) for name, text in zip(names, cells, strict=False) if text.strip()}


def _cell(name: str, text: str) -> str | float:
    if name in NUMBERS and re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if name == "prefix_start" and re.fullmatch(r"-?\d+(\.\d+)?", text) else text


def _request(place: str, values: dict[str, Any], folder: Path, defaults: Defaults, *, number: int, sample: int) -> Request:
    condition = _condition(place, values)
    own_seed = _whole(values, "seed", place, 0)
    seed = defaults.seed + number if own_seed is None else own_seed + sample
    frames = _whole(values, "frames", place, 1) or defaults.frames
    prefix = _prefix(values, folder, defaults, place)
    if prefix is not None and prefix.frames >= frames:
        raise ValueError(f"{place}: a prefix of {prefix.frames} frames leaves nothing to generate in a clip of {frames}")
    name = _name(values, place, sample if defaults.samples > 1 else None)
    name = name or f"{number:04d}_{slug(condition)}_seed{seed}"
    then = _then(values, place)
    if then and round(then[-1][0] * defaults.fps) >= frames:
        seconds = frames / defaults.fps
        raise ValueError(f'{place}: "then" changes the condition at {then[-1][0]:g} s, but the clip ends at {seconds:g} s')
    return Request(condition, seed, name, frames, prefix, place, then)


def _condition(place: str, values: dict[str, Any]) -> str:
    condition = value_of(values, "condition", str, place, "a text")
    if condition is None:
        raise ValueError(f'{place}: "condition" is missing')
    return condition


def _then(values: dict[str, Any], place: str) -> tuple[tuple[float, str], ...]:
    """The later conditions of a prompt, each with its second."""
    wanted = 'a list like [[4.0, "another condition"]], its seconds above 0 and rising'
    changes = value_of(values, "then", list, place, wanted) or []
    pairs = all(isinstance(change, list) and [_kind(part) for part in change] == ["number", "text"] for change in changes)
    if not (pairs and all(before < after for (before, _), (after, _) in pairwise([(0.0, ""), *changes]))):
        raise ValueError(f'{place}: "then" must be {wanted}, got {json.dumps(changes)}')
    return tuple((float(second), condition) for second, condition in changes)


def _kind(part: Any) -> str:
    number = isinstance(part, int | float) and not isinstance(part, bool) and math.isfinite(part)
    return "number" if number else "text" if isinstance(part, str) else "neither"


def _prefix(values: dict[str, Any], folder: Path, defaults: Defaults, place: str) -> Prefix | None:
    written = value_of(values, "prefix", str, place, "the path of a video or picture")
    frames = _whole(values, "prefix_frames", place, 0)
    start = None if values.get("prefix_start") is None else checked_start(values["prefix_start"], f'{place}: "prefix_start"')
    path = folder / Path(written).expanduser() if written else Path(defaults.prefix).expanduser() if defaults.prefix else None
    for key, value in {"prefix_frames": frames, "prefix_start": start}.items():
        if path is None and value:
            raise ValueError(f'{place}: "{key}" is {value}, but there is no prefix')
    frames = defaults.prefix_frames if frames is None else frames
    return Prefix(path, frames, defaults.prefix_start if start is None else start) if path and frames else None


def _name(values: dict[str, Any], place: str, sample: int | None) -> str | None:
    """The prompt's own file stem, with the sample's number if there are several."""
    name = value_of(values, "name", str, place, "a file name without suffix")
    if name is not None and (name in ("", ".", "..") or name != Path(name).name):
        raise ValueError(f'{place}: "name" must be a file name without folder, got {name!r}')
    return name if name is None or sample is None else f"{name}_{sample}"


def _whole(values: dict[str, Any], key: str, place: str, least: int) -> int | None:
    number = value_of(values, key, int, place, "a whole number")
    if number is not None and number < least:
        raise ValueError(f'{place}: "{key}" must be at least {least}, got {number}')
    return number
