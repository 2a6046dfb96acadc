"""Many evaluations as one table and one picture.

    python -m scripts.collect_results runs

Reads every ``results.json`` below a folder and writes ``results.md`` and, where matplotlib is installed, ``results.png`` into it. Numbers
of different protocols stand in different tables.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modules.metrics.evaluation.results import Results, Row, finite

# Numbers of single scales and frames, of which there are very many.
DETAIL = "scale"

# An evaluation's name and what it found.
Named = tuple[str, Results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with results.json files at any depth")
    parser.add_argument("--all", action="store_true", help="also the numbers of every single scale and frame")
    options = parser.parse_args()
    found = collect(options.folder)
    text = markdown(found, options.all)
    (options.folder / "results.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    if not plot(options.folder / "results.png", found):
        sys.stderr.write("no picture: matplotlib is not installed, or nothing was measured against a floor\n")


def collect(folder: Path) -> list[Named]:
    """Every evaluation below a folder, by its path.

    Raises:
        ValueError: If there is none.
    """
    files = sorted(folder.rglob("results.json"))
    if not files:
        raise ValueError(f"there is no results.json in {folder} or below")
    return [(str(file.parent.relative_to(folder)), Results.read(file)) for file in files]


def markdown(found: Sequence[Named], everything: bool = False) -> str:
    """A table per protocol, a row per number."""
    groups: dict[str, list[Named]] = defaultdict(list)
    for name, results in found:
        groups[_key(results)].append((name, results))
    return "\n".join(_section(group, everything) for group in groups.values())


def _key(results: Results) -> str:
    """Equal for numbers that may be compared."""
    return json.dumps(results.protocol, sort_keys=True, ensure_ascii=False)


def _section(group: Sequence[Named], everything: bool) -> str:
    protocol = group[0][1].protocol
    about = ", ".join(f"{key} {_short(value)}" for key, value in protocol.items() if value not in (None, "", {}))
    lines = [f"## Protocol {protocol.get('name', 'of the test')}", "", about, ""]
    lines += ["| evaluation | measure | of | value | floor | videos | remarks |", "|---|---|---|---|---|---|---|"]
    for name, results in group:
        lines += [_line(name, row) for row in results.rows if everything or DETAIL not in row.metric]
    lines += ["", *(f"- {name}: {_source(results.origin)}" for name, results in group), ""]
    return "\n".join(lines)


def _line(name: str, row: Row) -> str:
    cells = (name, row.metric, row.of, _value(row), _number(row.floor), str(row.clips or ""), row.note)
    return f"| {' | '.join(cells)} |"


def _value(row: Row) -> str:
    spread = "" if row.spread is None else f" ± {_number(row.spread)} ({len(row.values)} seeds)"
    return _number(row.value) + spread


def _number(number: float | None) -> str:
    if number is None:
        return ""
    return "not finite" if finite(number) is None else f"{number:.4g}"


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _source(origin: Mapping[str, Any]) -> str:
    digest = (origin.get("checkpoint_sha256") or "")[:12]
    weights = f"weights {origin['checkpoint']}{f' (sha256 {digest})' if digest else ''}; " if origin.get("checkpoint") else ""
    return f"{weights}`{origin.get('command', '')}`"


def plot(path: Path, found: Sequence[Named]) -> bool:
    """Bars of every number that has a floor, a panel per measure and protocol; says whether there was anything to draw, and with what."""
    panels: dict[tuple[str, str], list[tuple[str, Row]]] = defaultdict(list)
    names = {_key(results): results.protocol.get("name", "of the test") for _, results in found}
    for name, results in found:
        for row in results.rows:
            if row.floor is not None and finite(row.value) is not None:
                panels[row.metric, _key(results)].append((f"{name}: {row.of}" if len(found) > 1 else row.of, row))
    try:
        import matplotlib
    except ImportError:
        return False
    if not panels:
        return False
    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    heights = [1.0 + 0.3 * len(bars) for bars in panels.values()]
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(9, sum(heights)), squeeze=False, height_ratios=heights)
    for axis, ((metric, key), bars) in zip(axes[:, 0], panels.items(), strict=True):
        labels, rows = zip(*bars, strict=True)
        places = range(len(rows))
        axis.barh(places, [row.value for row in rows], xerr=[row.spread or 0.0 for row in rows], color="#6a8caf")
        axis.scatter([row.floor for row in rows], places, marker="|", s=200, color="black")
        axis.set_yticks(places, labels, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(f"{metric}; protocol {names[key]}; the line: real videos", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
    return True


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
