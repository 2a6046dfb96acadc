"""Results of the ablation: a CSV row per run, tables, and curves along the frames."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from experiments.tables import write_csv
from modules.metrics import markdown_table
from modules.metrics.table import mean_and_deviation
from scripts.figures import figure

TRAINED = slice(8, 17)  # frames of the trained length, without the first ones, which score lowest in every model
LAST = slice(49, 65)  # the last quarter of a rollout
CURVES = ("digit", "direction", "colour")
BASE = "+ multi-scale temporal RoPE"  # included in every row but the first


def write_results(folder: Path, names: list[str], ways: list[str]) -> None:
    """Write tables, curves and the list of finished runs in ``folder``; rows in the order of ``names``."""
    runs = {way: [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{way}.json"))] for way in ways}
    rows = list(scores(runs, names).values())
    if not rows:
        raise ValueError(f"no finished run in {folder}")
    write_csv(folder / "ablation.csv", rows)
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
    """Return a row per model, in the order of the table."""
    found: dict[tuple, dict] = {}
    for way, finished in runs.items():
        for run in finished:
            about = {name: run[name] for name in ("row", "steps", "steps_taken", "seed", "clips")}
            line = found.setdefault((run["steps"], names.index(run["row"]), run["seed"]), about)
            for curve in CURVES:
                line[f"{curve}_trained"] = round(mean_over(run[curve], TRAINED), 4)
                line[f"{curve}_last_{way}"] = round(mean_over(run[curve], LAST), 4)
    return dict(sorted(found.items()))


def mean_over(curve: list[float], frames: slice) -> float:
    """Return the mean over some frames. The curve of the direction starts at frame 4."""
    missing = 65 - len(curve)
    return statistics.fmean(curve[max(0, frames.start - missing) : frames.stop - missing])


def table(rows: list[dict], names: list[str], ways: list[str]) -> str:
    columns = {"digit, frames 8-16": "digit_trained"}
    columns |= {f"{curve}, frames 49-64, {way.replace('_', ' ')}": f"{curve}_last_{way}" for curve in CURVES for way in ways}
    cells = []
    for name in names:
        own = [row for row in rows if row["row"] == name]
        if own:
            values = [mean_and_deviation([row[column] for row in own if column in row], digits=3) for column in columns.values()]
            cells.append([name, str(own[0]["steps_taken"]), str(len(own)), *values])
    return markdown_table([f"{rows[0]['steps']} steps", "taken", "seeds", *columns], cells)


def differences(rows: list[dict], names: list[str], ways: list[str]) -> str:
    """Return the gain of a row over temporal RoPE alone, paired by seed, as rows of one seed share their start; ± standard error."""
    columns = {f"{curve}, {way.replace('_', ' ')}": f"{curve}_last_{way}" for curve in CURVES[:2] for way in ways}
    base = {row["seed"]: row for row in rows if row["row"] == BASE}
    cells = []
    for name in names:
        own = [row for row in rows if row["row"] == name and row["seed"] in base]
        if own and name != BASE:
            values = [gain([row[column] - base[row["seed"]][column] for row in own if column in row]) for column in columns.values()]
            cells.append([name, str(len(own)), *values])
    return markdown_table(["over temporal RoPE alone, frames 49-64", "seeds", *columns], cells)


def gain(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):+.3f} ± {error:.3f}"


def plot(runs: list[dict], names: list[str], path: Path) -> None:
    """Plot the digit's curve: a row of panels per length of training, a panel per question; mean and range of the seeds."""
    paper = names[3]
    questions = {
        "Table 4 of the paper": names[:4],
        "rise and inheritance apart": [names[1], names[2], *names[4:7], paper],
        "on top": [paper, *names[7:]],
    }
    lengths = sorted({run["steps"] for run in runs})
    with figure(path, len(lengths), len(questions), (15, 4.2 * len(lengths)), sharey=True) as axes:
        for row_of_axes, steps in zip(axes, lengths, strict=True):
            for axis, (question, shown) in zip(row_of_axes, questions.items(), strict=True):
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
            row_of_axes[0].set_ylabel("fraction of clips with the right digit")


def smooth(curve: list[float]) -> list[float]:
    """Mean over five frames."""
    return [statistics.fmean(curve[first : first + 5]) for first in range(len(curve) - 4)]
