"""Entries of a ``report.json``: measured values with their spread over seeds, by protocol, and their provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from modules.metrics.table import markdown_table, mean_and_deviation
from modules.storage.atomic_files import write_text

COLUMNS = ("measure", "of", "value", "real vs. real", "videos", "remarks")
# Parts of a protocol that differ from run to run although the values compare.
NOT_COMPARED = ("settings", "checkpoint")


@dataclass(frozen=True)
class Measurement:
    """A measured value.

    Args:
        metric: Name of the measure.
        of: Measured videos, such as "generated"; "" for a value of the model.
        values: The value for every seed. Non-finite values become null in the file.
        real_vs_real: Value of real videos against other real videos at the same size; None where that has no meaning.
        clips: Number of measured videos.
        note: Departures from the protocol, or what the value is to be compared with.
    """

    metric: str
    of: str
    values: tuple[float, ...]
    real_vs_real: float | None = None
    clips: int | None = None
    note: str = ""

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    def plain(self) -> dict[str, Any]:
        """Content of the file, as JSON types."""
        statistics = {"value": finite(self.value), "spread": self.spread and finite(self.spread), "values": [*map(finite, self.values)]}
        about = {"real_vs_real": self.real_vs_real, "clips": self.clips, "note": self.note}
        return {"metric": self.metric, "of": self.of, **statistics, **about}

    @classmethod
    def from_plain(cls, content: Mapping[str, Any]) -> Measurement:
        """Inverse of :meth:`plain`, except that null becomes NaN."""
        values = tuple(math.nan if value is None else float(value) for value in content["values"])
        if not values:
            raise ValueError(f"{content['metric']} has no values")
        return cls(content["metric"], content["of"], values, content["real_vs_real"], content["clips"], content["note"])

    def cells(self) -> list[str]:
        """Cells of a table with ``COLUMNS``."""
        value = mean_and_deviation(self.values) + (f" ({len(self.values)} seeds)" if len(self.values) > 1 else "")
        reference = "" if self.real_vs_real is None else f"{self.real_vs_real:.4g}"
        return [self.metric, self.of, value, reference, str(self.clips or ""), self.note]


@dataclass(frozen=True)
class Evaluation:
    """Measurements by one protocol, an entry of ``evaluations`` in a ``report.json``.

    Args:
        measurements: The values.
        protocol: Plain values; two evaluations may be compared if theirs are equal.
        details: Everything else that is needed to repeat the measurement, such as the features' fingerprint.
    """

    measurements: Sequence[Measurement]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """Content of the file, as JSON types."""
        return {"protocol": self.protocol, "details": self.details, "results": [each.plain() for each in self.measurements]}

    def text(self) -> str:
        """The protocol's name and a table."""
        return f"protocol {self.protocol.get('name')}\n{markdown_table(COLUMNS, [each.cells() for each in self.measurements])}"


def write_report(path: str | Path, report: Mapping[str, Any]) -> None:
    """Write a ``report.json``."""
    write_text(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def read_report(path: str | Path) -> tuple[list[Evaluation], dict[str, Any]]:
    """Return the evaluations of a ``report.json``, that of the test clips first, and their provenance.

    Raises:
        ValueError: If the file is no such report.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
        entries = [
            Evaluation([Measurement.from_plain(row) for row in entry["results"]], entry["protocol"], entry["details"])
            for entry in report["evaluations"]
        ]
        if "metrics" in report:
            shared = {name: value for name, value in report["protocol"].items() if name not in NOT_COMPARED}
            entries.insert(0, Evaluation(list(_of_test(report)), {"name": "test clips", **shared}))
        return entries, dict(report["provenance"])
    except KeyError as error:
        raise ValueError(f"{path} is not a report of an evaluation: it lacks {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a report of an evaluation ({type(error).__name__}: {error})") from error


def _of_test(report: Mapping[str, Any]) -> Iterator[Measurement]:
    """Single values that ``test`` measured on the test clips, and those of the data's classifier."""
    named = [(name.removeprefix("test/"), "", value) for name, value in report["metrics"].items() if name.startswith("test/")]
    named += [(name, kind, value) for kind, row in report["judge"].items() for name, value in row.items() if name != "clips"]
    for metric, of, value in named:
        if not isinstance(value, list):
            yield Measurement(metric, of, (math.nan if value is None else value,), clips=report["protocol"]["clips"])


def finite(value: float) -> float | None:
    """The value, or None if JSON has no number for it."""
    return value if math.isfinite(value) else None
