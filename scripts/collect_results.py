"""Several reports as one table and one plot.

    python -m scripts.collect_results runs

Reads every ``report.json`` below a folder and writes ``results.md`` and, with matplotlib installed, ``results.png``.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import defaultdict
from pathlib import Path

from modules.metrics import Evaluation, Measurement, markdown_table, read_report
from modules.metrics.evaluation.report import COLUMNS, finite
from scripts.cli import run
from scripts.figures import figure

log = logging.getLogger(__name__)

# Part of the names of values for a single scale and frame, of which there are very many.
DETAIL = "scale"


def collect(folder: Path, *, all: bool = False) -> None:
    """Collect all ``report.json`` below a folder in one table, ``results.md``, and one plot, ``results.png``.

    Args:
        folder: Folder with reports at any depth.
        all: Include the values of every single scale and frame.
    """
    found = read_reports(folder)
    text = markdown(found, all)
    (folder / "results.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    plot(folder / "results.png", found)


def read_reports(folder: Path) -> dict[str, list[tuple[str, Evaluation]]]:
    """Return named evaluations by their protocol, as JSON; the name is the path of the report's folder.

    Raises:
        ValueError: If there is no report.
    """
    found: dict[str, list[tuple[str, Evaluation]]] = defaultdict(list)
    for file in sorted(folder.rglob("report.json")):
        for evaluation in read_report(file)[0]:
            key = json.dumps(evaluation.protocol, sort_keys=True, ensure_ascii=False)
            found[key].append((str(file.parent.relative_to(folder)), evaluation))
    if not found:
        raise ValueError(f"there is no report.json with evaluations in {folder} or below")
    return found


def markdown(found: dict[str, list[tuple[str, Evaluation]]], all_scales: bool = False) -> str:
    """Return a table per protocol with a row per value."""
    sections = []
    for group in found.values():
        protocol = group[0][1].protocol
        about = ", ".join(f"{key} {value}" for key, value in protocol.items() if value not in (None, "", {}))
        rows = [
            [name, *each.cells()]
            for name, evaluation in group
            for each in evaluation.measurements
            if all_scales or DETAIL not in each.metric
        ]
        sections.append(f"## Protocol {protocol['name']}\n\n{about}\n\n{markdown_table(['evaluation', *COLUMNS], rows)}")
    return "\n".join(sections)


def plot(path: Path, found: dict[str, list[tuple[str, Evaluation]]]) -> None:
    """Draw bars of all values that have a real-vs-real value, a panel per protocol and measure."""
    panels: dict[tuple[str, str], list[tuple[str, Measurement]]] = defaultdict(list)
    for key, group in found.items():
        for name, evaluation in group:
            for each in evaluation.measurements:
                if each.real_vs_real is not None and finite(each.value) is not None:
                    panels[key, each.metric].append((f"{name}: {each.of}", each))
    heights = [1.0 + 0.3 * len(bars) for bars in panels.values()]
    if not panels:
        log.info("no plot: no value has a real-vs-real value")
        return
    try:
        with figure(path, len(panels), 1, (9, sum(heights)), height_ratios=heights) as axes:
            for axis, ((key, metric), bars) in zip(axes[:, 0], panels.items(), strict=True):
                labels, rows = zip(*bars, strict=True)
                positions = range(len(rows))
                axis.barh(positions, [row.value for row in rows], xerr=[row.spread or 0.0 for row in rows], color="#6a8caf")
                axis.scatter([row.real_vs_real for row in rows], positions, marker="|", s=200, color="black")
                axis.set_yticks(positions, labels, fontsize=8)
                axis.invert_yaxis()
                axis.set_title(f"{metric}; protocol {json.loads(key)['name']}; line: real vs. real", fontsize=9)
    except ImportError:
        log.info("no plot: matplotlib is not installed")


if __name__ == "__main__":
    run(collect)
