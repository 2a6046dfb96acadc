"""Training curves of tokenizer runs, per scale, as a picture and a table: what a healthy run looks like.

    python -m experiments.curves runs/demo/1_image_tokenizer runs/demo/2_video_tokenizer --out docs/results/reference_tokenizer

Reads the CSV logs of the runs' folders and writes ``<out>.csv`` (a row per logged step) and ``<out>.png`` (a row of panels per run).
Needs matplotlib (``pip install matplotlib``).
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

PANELS = {
    "PSNR (dB)": r"(train|val)/psnr",
    "gradient norm": r"train/gradient_norm",
    "entropy of a bit, by scale": r"train/bits/(scale\d+)/entropy",
    "share of the latent left, by scale": r"train/bits/(scale\d+)/left",
}
KEPT = re.compile(
    r"step|(train|val)/(psnr.*|ssim|change_.*|bits/.*)|train/(loss|absolute|squared|gradient_norm|commitment|entropy|residual)"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs of train.py fit")
    parser.add_argument("--out", type=Path, required=True, help="path of the results without suffix")
    options = parser.parse_args()
    logs = {run.name: read(run) for run in options.runs}
    write(options.out.with_suffix(".csv"), logs)
    plot(options.out.with_suffix(".png"), logs)


def read(run: Path) -> list[dict[str, str]]:
    """The rows of a run's log in order, those of resumed parts too."""
    rows = []
    for log in sorted(run.glob("log/version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1])):
        with log.open() as file:
            rows += [{name: value for name, value in row.items() if KEPT.fullmatch(name) and value} for row in csv.DictReader(file)]
    return rows


def write(path: Path, logs: dict[str, list[dict[str, str]]]) -> None:
    names = sorted({name for rows in logs.values() for row in rows for name in row} - {"step"})
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["run", "step", *names])
        writer.writeheader()
        for run, rows in logs.items():
            writer.writerows({"run": run, **{name: shortened(value) for name, value in row.items()}} for row in rows)


def shortened(value: str) -> str:
    return value if value.isdigit() else f"{float(value):.4g}"


def plot(path: Path, logs: dict[str, list[dict[str, str]]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, axes = pyplot.subplots(len(logs), len(PANELS), figsize=(4 * len(PANELS), 3 * len(logs)), squeeze=False)
    for (run, rows), row_of_axes in zip(logs.items(), axes, strict=True):
        for (title, pattern), axis in zip(PANELS.items(), row_of_axes, strict=True):
            for name in sorted({name for row in rows for name in row if re.fullmatch(pattern, name)}):
                points = [(int(row["step"]) + 1, float(row[name])) for row in rows if name in row]
                label = next(iter(re.fullmatch(pattern, name).groups()), None)  # type: ignore[union-attr]
                axis.plot(*zip(*points, strict=True), label=label, marker="o" if name.startswith("val") else None)
            axis.set_title(f"{run}\n{title}", fontsize=9)
            if axis.get_legend_handles_labels()[1]:
                axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
