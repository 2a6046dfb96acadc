"""Training curves of tokenizer runs, per scale, as a plot and a table: reference curves of a healthy run.

    python -m experiments.curves runs/demo/1_image_tokenizer runs/demo/2_video_tokenizer --out docs/results/reference_tokenizer

Reads the CSV logs of the runs and writes ``<out>.csv`` (a row per logged step) and ``<out>.png`` (a row of panels per run).
Needs matplotlib (``pip install matplotlib``).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from experiments.tables import write_csv
from scripts.cli import run
from scripts.figures import figure

PANELS = {
    "PSNR (dB)": r"(train|val)/psnr",
    "gradient norm": r"train/gradient_norm",
    "entropy of a bit, by scale": r"train/bits/(scale\d+)/entropy",
    "fraction of the latent left, by scale": r"train/bits/(scale\d+)/left",
}
KEPT = re.compile(
    r"step|(train|val)/(psnr.*|ssim|change_.*|bits/.*)|train/(loss|absolute|squared|gradient_norm|commitment|entropy|residual)"
)

# Rows of a log, by run.
Logs = dict[str, list[dict[str, int | float]]]


def curves(runs: list[Path], *, out: Path) -> None:
    """Plot and tabulate the training curves of tokenizer runs.

    Args:
        runs: Folders of runs of train.py fit.
        out: Path of the results without suffix.
    """
    logs: Logs = {folder.name: read(folder) for folder in runs}
    names = sorted({name for rows in logs.values() for row in rows for name in row} - {"step"})
    header = dict.fromkeys(["run", "step", *names], "")
    write_csv(out.with_suffix(".csv"), [header | {"run": name} | row for name, rows in logs.items() for row in rows])
    plot(out.with_suffix(".png"), logs)


def read(folder: Path) -> list[dict[str, int | float]]:
    """Return the rows of a run's log in order, including those of resumed parts."""
    rows = []
    for log in sorted(folder.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with log.open() as file:
            rows += [{name: number(value) for name, value in row.items() if KEPT.fullmatch(name) and value} for row in csv.DictReader(file)]
    return rows


def number(value: str) -> int | float:
    return int(value) if value.isdigit() else float(value)


def plot(path: Path, logs: Logs) -> None:
    with figure(path, len(logs), len(PANELS), (4 * len(PANELS), 3 * len(logs))) as axes:
        for (run_name, rows), row_of_axes in zip(logs.items(), axes, strict=True):
            for (title, pattern), axis in zip(PANELS.items(), row_of_axes, strict=True):
                for name in sorted({name for row in rows for name in row if re.fullmatch(pattern, name)}):
                    points = [(row["step"] + 1, row[name]) for row in rows if name in row]
                    label = next(iter(re.fullmatch(pattern, name).groups()), None)  # type: ignore[union-attr]
                    axis.plot(*zip(*points, strict=True), label=label, marker="o" if name.startswith("val") else None)
                axis.set_title(f"{run_name}\n{title}", fontsize=9)
                if axis.get_legend_handles_labels()[1]:
                    axis.legend(fontsize=7)


if __name__ == "__main__":
    run(curves)
