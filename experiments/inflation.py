"""Does a video tokenizer gain from an image tokenizer's weights? From scratch, inflated with zeros, inflated with random slices.

    python -m experiments.inflation --manifest clips/captions.jsonl --out runs/inflation

Trains one image tokenizer on frames of the clips, then for every seed three video tokenizers with the same data, steps and settings.
Runs that are finished are kept, so the command may be interrupted and repeated. Writes ``inflation.csv`` (every validation of every
run), ``inflation.png`` and ``inflation.md`` (the table) to ``--out``. Needs matplotlib (``pip install matplotlib``).
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

STARTS = {
    "scratch": [],
    "zeros": ["--init_from", "{image}", "--temporal_init", "zeros"],
    "random": ["--init_from", "{image}", "--temporal_init", "random"],
}
MEASURES = ("psnr", "ssim", "psnr_first", "psnr_in_group_1", "psnr_in_group_4", "change_error", "change_of_still")


def main() -> None:
    options = parse()
    image = options.out / "image"
    train(image, options, options.image_steps, 0, ["-c", "configs/stage/1_images.yaml"])
    runs = [(start, seed) for seed in range(options.seeds) for start in STARTS]
    with ThreadPoolExecutor(options.jobs) as pool:
        started = [pool.submit(train_video, start, seed, options, image) for start, seed in runs]
        for run in started:
            run.result()
    rows = [row for start, seed in runs for row in validations(options.out / f"{start}_{seed}", start, seed)]
    write_csv(options.out / "inflation.csv", rows)
    table = markdown(rows, options.steps)
    (options.out / "inflation.md").write_text(table)
    plot(rows, options.out / "inflation.png")
    sys.stdout.write(table)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="clips, as configs/data/folder.yaml takes them")
    parser.add_argument("--where", default="{}", help="which rows of the manifest, as YAML")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--image_steps", type=int, default=700)
    parser.add_argument("--steps", type=int, default=250, help="of every video tokenizer")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, each on one thread")
    return parser.parse_args()


def train_video(start: str, seed: int, options: argparse.Namespace, image: Path) -> None:
    begin = [argument.format(image=image / "checkpoints" / "last.ckpt") for argument in STARTS[start]]
    frames = ["--data.clip.frames", str(options.frames), "--data.batch_size", "4"]
    train(options.out / f"{start}_{seed}", options, options.steps, seed, ["-c", "configs/stage/2_video.yaml", *frames, *begin])


def train(folder: Path, options: argparse.Namespace, steps: int, seed: int, more: list[str]) -> None:
    """One run of train.py, unless it has been finished before."""
    done = folder / "done"
    if done.exists():
        return
    size = str(options.pixels)
    command = [sys.executable, "train.py", "fit", "-c", "configs/tokenizer.yaml", "-c", "configs/data/folder.yaml", *more]
    command += ["--data.manifest", str(options.manifest), "--data.where", options.where, "--data.seed", str(seed)]
    command += ["--data.clip.height", size, "--data.clip.width", size, "--seed_everything", str(seed)]
    command += ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(max(1, steps // 10))]
    command += ["--trainer.limit_val_batches", "1.0", "--trainer.default_root_dir", str(folder), "--ckpt_path", "last"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w") as output:
        subprocess.run(command, stdout=output, stderr=output, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    done.touch()


def validations(folder: Path, start: str, seed: int) -> list[dict[str, str | int | float]]:
    """What every validation of a run measured, over all its versions of the log."""
    rows = []
    for log in sorted(folder.glob("log/*/metrics.csv")):
        with log.open() as file:
            for row in csv.DictReader(file):
                if row.get("val/psnr"):
                    measures = {name: float(row[f"val/{name}"]) for name in MEASURES}
                    rows.append({"start": start, "seed": seed, "step": int(row["step"]) + 1, **measures})
    return rows


def write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({name: f"{value:.5g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows)


def values(rows: list[dict], start: str, step: int, measure: str) -> list[float]:
    return [row[measure] for row in rows if row["start"] == start and row["step"] == step]


def markdown(rows: list[dict], steps: int) -> str:
    """Mean and standard deviation over seeds at the end, and the PSNR on the way."""
    every = sorted({row["step"] for row in rows})
    shown = [every[0], every[len(every) // 2], every[-1]]
    head = [*(f"PSNR after {step}" for step in shown), *(name for name in MEASURES[1:])]
    lines = ["| start | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 1)]
    for start in STARTS:
        cells = [spread(values(rows, start, step, "psnr")) for step in shown]
        cells += [spread(values(rows, start, every[-1], name)) for name in MEASURES[1:]]
        lines.append(f"| {start} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + f"\n\n{steps} steps; mean ± standard deviation over seeds.\n"


def spread(numbers: list[float]) -> str:
    return f"{statistics.fmean(numbers):.4g} ± {statistics.stdev(numbers):.2g}" if len(numbers) > 1 else f"{numbers[0]:.4g}"


def plot(rows: list[dict], path: Path) -> None:
    """Curves of the mean over seeds, with the range of the seeds behind."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    for axis, measure, title in zip(axes, ("psnr", "change_error"), ("PSNR (dB)", "error of the change from frame to frame"), strict=True):
        for start in STARTS:
            steps = sorted({row["step"] for row in rows if row["start"] == start})
            seeds = [values(rows, start, step, measure) for step in steps]
            axis.plot(steps, [statistics.fmean(numbers) for numbers in seeds], marker=".", label=start)
            axis.fill_between(steps, [min(numbers) for numbers in seeds], [max(numbers) for numbers in seeds], alpha=0.2)
        axis.set_title(f"{title}, held-out clips")
        axis.set_xlabel("steps of the video tokenizer")
    axes[1].axhline(rows[-1]["change_of_still"], color="grey", linestyle=":", label="a still picture")
    axes[0].legend()
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
