"""Results of the ablation: every run as a line, the table, and the curves along the frames."""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path

TRAINED = slice(8, 17)  # frames of the trained length, without the first ones, which are the weakest in every model
LAST = slice(49, 65)  # the last quarter of a rollout
CURVES = ("digit", "direction", "colour")
BASE = "+ multi-scale temporal RoPE"  # what every row but the first builds on


def write_results(folder: Path, names: list[str], ways: list[str]) -> None:
    """Table, curves and list of the finished runs in ``folder``; rows in the order of ``names``."""
    runs = {way: [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{way}.json"))] for way in ways}
    rows = list(scores(runs, names).values())
    if not rows:
        raise SystemExit(f"no finished run in {folder}")
    with (folder / "ablation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, max(rows, key=len))
        writer.writeheader()
        writer.writerows(rows)
    tables = []
    for steps in sorted({row["steps"] for row in rows}):
        chosen = [row for row in rows if row["steps"] == steps]
        tables += [table(chosen, names, ways), differences(chosen, names, ways)]
    (folder / "ablation.md").write_text("\n".join(tables))
    for way in ways:
        if runs[way]:
            plot(runs[way], names, folder / f"ablation_{way}.png")
    sys.stdout.write("\n".join(tables))


def scores(runs: dict[str, list[dict]], names: list[str]) -> dict[tuple, dict]:
    """Every model as a line of the list, in the order of the table."""
    found: dict[tuple, dict] = {}
    for way, judged in runs.items():
        for run in judged:
            about = {name: run[name] for name in ("row", "steps", "steps_taken", "seed", "clips")}
            line = found.setdefault((run["steps"], names.index(run["row"]), run["seed"]), about)
            for curve in CURVES:
                line[f"{curve}_trained"] = round(mean_over(run[curve], TRAINED), 4)
                line[f"{curve}_last_{way}"] = round(mean_over(run[curve], LAST), 4)
    return dict(sorted(found.items()))


def mean_over(curve: list[float], frames: slice) -> float:
    """Mean over some frames. The curve of the direction starts at frame 4."""
    missing = 65 - len(curve)
    return statistics.fmean(curve[max(0, frames.start - missing) : frames.stop - missing])


def table(rows: list[dict], names: list[str], ways: list[str]) -> str:
    columns = {"digit, frames 8-16": "digit_trained"}
    columns |= {f"{curve}, frames 49-64, {way.replace('_', ' ')}": f"{curve}_last_{way}" for curve in CURVES for way in ways}
    lines = [f"| {rows[0]['steps']} steps | taken | seeds | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 3)]
    for name in names:
        own = [row for row in rows if row["row"] == name]
        if own:
            cells = [spread([row[column] for row in own if column in row]) for column in columns.values()]
            lines.append(f"| {name} | {own[0]['steps_taken']} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def differences(rows: list[dict], names: list[str], ways: list[str]) -> str:
    """What a row adds to temporal RoPE alone, seed by seed, as all rows of a seed go on from the same short clips; ± standard error."""
    columns = {f"{curve}, {way.replace('_', ' ')}": f"{curve}_last_{way}" for curve in CURVES[:2] for way in ways}
    lines = ["| over temporal RoPE alone, frames 49-64 | seeds | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 2)]
    base = {row["seed"]: row for row in rows if row["row"] == BASE}
    for name in names:
        own = [row for row in rows if row["row"] == name and row["seed"] in base]
        if own and name != BASE:
            cells = [gain([row[column] - base[row["seed"]][column] for row in own if column in row]) for column in columns.values()]
            lines.append(f"| {name} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gain(numbers: list[float]) -> str:
    error = statistics.stdev(numbers) / len(numbers) ** 0.5 if len(numbers) > 1 else float("nan")
    return f"{statistics.fmean(numbers):+.3f} ± {error:.3f}"


def spread(numbers: list[float]) -> str:
    return (
        f"{statistics.fmean(numbers):.3g} ± {statistics.stdev(numbers):.2g}"
        if len(numbers) > 1
        else "".join(f"{number:.3g}" for number in numbers)
    )


def plot(runs: list[dict], names: list[str], path: Path) -> None:
    """The digit's curve: a row of panels per length of training, a panel per question, the range of the seeds behind the mean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    paper = names[3]
    questions = {
        "Table 4 of the paper": names[:4],
        "rise and inheritance apart": [names[1], names[2], *names[4:7], paper],
        "on top": [paper, *names[7:]],
    }
    lengths = sorted({run["steps"] for run in runs})
    figure, axes = pyplot.subplots(len(lengths), len(questions), figsize=(15, 4.2 * len(lengths)), sharey=True, squeeze=False)
    for line, steps in zip(axes, lengths, strict=True):
        for axis, (question, shown) in zip(line, questions.items(), strict=True):
            for name in shown:
                curves = [smooth(run["digit"]) for run in runs if run["row"] == name and run["steps"] == steps]
                if curves:
                    frames = range(2, 2 + len(curves[0]))
                    axis.plot(frames, [statistics.fmean(at) for at in zip(*curves, strict=True)], label=name)
                    axis.fill_between(frames, *([end(at) for at in zip(*curves, strict=True)] for end in (min, max)), alpha=0.12)
            axis.axvline(16, color="grey", linestyle=":")
            axis.set_title(f"{question}, {steps} steps")
            axis.set_xlabel("frame (dotted: end of the trained length)")
            axis.legend(fontsize=7)
        line[0].set_ylabel("share of clips with the right digit")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def smooth(curve: list[float]) -> list[float]:
    """Mean over five frames."""
    return [statistics.fmean(curve[first : first + 5]) for first in range(len(curve) - 4)]
