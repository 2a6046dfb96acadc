"""One file per evaluation: every number with its spread, and everything that is needed to make it again."""

from __future__ import annotations

import json
import math
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from modules.storage.checksums import source_hash

PACKAGES = ("torch", "lightning", "torchmetrics")


@dataclass(frozen=True)
class Row:
    """A measured number.

    Args:
        metric: What was measured.
        of: Which videos, such as "generated"; "" for a number of the model.
        values: The number for every seed; of one seed if only one was used. What is not finite becomes null in the file.
        floor: What real videos score against other real videos at the same size; None where that has no meaning.
        clips: Videos measured.
        note: In what it differs from the protocol, or what it is to be compared with.
    """

    metric: str
    of: str
    values: tuple[float, ...]
    floor: float | None = None
    clips: int | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds, of a sample; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    def plain(self) -> dict[str, Any]:
        """As in the file."""
        numbers = {"value": finite(self.value), "spread": self.spread and finite(self.spread), "values": [*map(finite, self.values)]}
        return {"metric": self.metric, "of": self.of, **numbers, "floor": self.floor, "clips": self.clips, "note": self.note}


@dataclass(frozen=True)
class Results:
    """The content of a ``results.json``.

    Args:
        rows: The numbers.
        protocol: How they were made, as plain values.
        origin: Where they come from: checkpoint, its sha256, command, versions.
    """

    rows: Sequence[Row]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """The file's text."""
        content = {"results": [row.plain() for row in self.rows], "protocol": self.protocol, "origin": self.origin}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Raises ``ValueError`` if the file is none of ours."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            rows = [_row(row) for row in content["results"]]
            return cls(rows, dict(content["protocol"]), dict(content["origin"]))
        except KeyError as error:
            raise ValueError(f"{path} holds no results of an evaluation: it lacks {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} holds no results of an evaluation ({type(error).__name__}: {error})") from error


def origin(checkpoint: str | Path | None, **more: Any) -> dict[str, Any]:
    """Where a number comes from: weights with their sha256, command line, versions, commit; and what is given."""
    return {
        "checkpoint": checkpoint and str(checkpoint),
        "checkpoint_sha256": source_hash(checkpoint),
        "command": shlex.join(["python", *sys.argv]),
        "versions": {"python": sys.version.split()[0], **{name: _version(name) for name in PACKAGES}, "commit": _commit()},
        **more,
    }


def finite(number: float) -> float | None:
    """A number as JSON knows it."""
    return number if math.isfinite(number) else None


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text."""
    cells = [["", "", "value", "spread", "floor", "videos"]]
    for row in rows:
        numbers = [f"{number:.4g}" if number is not None else "" for number in (row.value, row.spread, row.floor)]
        cells.append([row.metric, row.of, *numbers, str(row.clips or "")])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join([*map(str.ljust, line[:2], widths[:2]), *map(str.rjust, line[2:], widths[2:])]).rstrip() for line in cells]
    notes = [f"{row.of}: {row.note}" if row.of else row.note for row in rows if row.note]
    return "\n".join([*lines, *dict.fromkeys(notes)])


def _row(content: Mapping[str, Any]) -> Row:
    values = tuple(math.nan if value is None else float(value) for value in content["values"])
    if not values:
        raise ValueError(f"{content['metric']} has no values")
    return Row(content["metric"], content["of"], values, content["floor"], content["clips"], content["note"])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The project's commit, with a + if files were changed since; None outside a checkout."""
    here = Path(__file__).parent
    try:
        git = [
            subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return git[0] + "+" * bool(git[1])
