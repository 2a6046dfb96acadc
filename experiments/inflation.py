"""Initialisation of a video tokenizer: from scratch, inflated from an image tokenizer with zeros, or with random slices.

    python -m experiments.inflation --manifest clips/captions.jsonl --out runs/inflation

Trains one image tokenizer on frames of the clips, then for every seed three video tokenizers with the same data, steps and settings.
Finished runs are kept, so the command may be interrupted and repeated. Writes ``inflation.csv`` (every validation of every run),
``inflation.png`` and ``inflation.md`` (the table) to ``--out``. Needs matplotlib (``pip install matplotlib``).
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from experiments.tables import write_csv
from modules.metrics import markdown_table
from modules.metrics.table import mean_and_deviation
from scripts.cli import run
from scripts.figures import figure

STARTS = {
    "scratch": [],
    "zeros": ["--init_from", "{image}", "--temporal_init", "zeros"],
    "random": ["--init_from", "{image}", "--temporal_init", "random"],
}
MEASURES = ("psnr", "ssim", "psnr_first", "psnr_in_group_1", "psnr_in_group_4", "change_error", "change_of_still")


@dataclass(frozen=True)
class Settings:
    """Settings that all runs share; see :func:`inflation`."""

    manifest: Path
    out: Path
    where: str
    pixels: int
    frames: int


def inflation(
    *,
    manifest: Path,
    out: Path,
    where: str = "{}",
    pixels: int = 64,
    frames: int = 9,
    image_steps: int = 700,
    steps: int = 250,
    seeds: int = 3,
    jobs: int = 1,
) -> None:
    """Compare initialisations of a video tokenizer.

    Args:
        manifest: Clips, as for configs/data/folder.yaml.
        out: Folder for runs and results.
        where: Filter of the manifest's rows, as YAML.
        pixels: Height and width of the clips.
        frames: Frames of the clips.
        image_steps: Steps of the image tokenizer.
        steps: Steps of every video tokenizer.
        seeds: Number of seeds.
        jobs: Runs at the same time, each on one thread.
    """
    settings = Settings(manifest, out, where, pixels, frames)
    train(out / "image", settings, image_steps, 0, ["-c", "configs/stage/1_images.yaml"])
    runs = [(start, seed) for seed in range(seeds) for start in STARTS]
    with ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(train_video, start, seed, settings, steps) for start, seed in runs]
        for each in started:
            each.result()
    rows = [row for start, seed in runs for row in validations(out / f"{start}_{seed}", start, seed)]
    write_csv(out / "inflation.csv", rows, digits=5)
    text = table(rows, steps)
    (out / "inflation.md").write_text(text)
    plot(rows, out / "inflation.png")
    sys.stdout.write(text)


def train_video(start: str, seed: int, settings: Settings, steps: int) -> None:
    weights = [argument.format(image=settings.out / "image" / "checkpoints" / "last.ckpt") for argument in STARTS[start]]
    frames = ["--data.clip.frames", str(settings.frames), "--data.batch_size", "4"]
    train(settings.out / f"{start}_{seed}", settings, steps, seed, ["-c", "configs/stage/2_video.yaml", *frames, *weights])


def train(folder: Path, settings: Settings, steps: int, seed: int, more: list[str]) -> None:
    """Run train.py, unless the run is already finished."""
    done = folder / "done"
    if done.exists():
        return
    size = str(settings.pixels)
    command = [sys.executable, "train.py", "fit", "-c", "configs/tokenizer.yaml", "-c", "configs/data/folder.yaml", *more]
    command += ["--data.manifest", str(settings.manifest), "--data.where", settings.where, "--data.seed", str(seed)]
    command += ["--data.clip.height", size, "--data.clip.width", size, "--seed_everything", str(seed)]
    command += ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(max(1, steps // 10))]
    command += ["--trainer.limit_val_batches", "1.0", "--trainer.default_root_dir", str(folder), "--ckpt_path", "last"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.txt").open("w") as output:
        subprocess.run(command, stdout=output, stderr=output, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    done.touch()


def validations(folder: Path, start: str, seed: int) -> list[dict[str, str | int | float]]:
    """Return the values of every validation of a run, over all versions of its log."""
    rows = []
    for log in sorted(folder.glob("log/*/metrics.csv")):
        with log.open() as file:
            for row in csv.DictReader(file):
                if row.get("val/psnr"):
                    measures = {name: float(row[f"val/{name}"]) for name in MEASURES}
                    rows.append({"start": start, "seed": seed, "step": int(row["step"]) + 1, **measures})
    return rows


def values(rows: list[dict], start: str, step: int, measure: str) -> list[float]:
    return [row[measure] for row in rows if row["start"] == start and row["step"] == step]


def table(rows: list[dict], steps: int) -> str:
    """Return mean and standard deviation over seeds at the end, and the PSNR on the way."""
    every = sorted({row["step"] for row in rows})
    shown = [every[0], every[len(every) // 2], every[-1]]
    header = ["start", *(f"PSNR after {step}" for step in shown), *MEASURES[1:]]
    cells = [
        [start, *(mean_and_deviation(values(rows, start, step, "psnr")) for step in shown)]
        + [mean_and_deviation(values(rows, start, every[-1], name)) for name in MEASURES[1:]]
        for start in STARTS
    ]
    return f"{markdown_table(header, cells)}\n{steps} steps; mean ± standard deviation over seeds.\n"


def plot(rows: list[dict], path: Path) -> None:
    """Plot the mean over seeds and the range of the seeds."""
    titles = {"psnr": "PSNR (dB)", "change_error": "error of the change from frame to frame"}
    with figure(path, 1, 2, (10, 4)) as axes:
        for axis, (measure, title) in zip(axes[0], titles.items(), strict=True):
            for start in STARTS:
                steps = sorted({row["step"] for row in rows if row["start"] == start})
                seeds = [values(rows, start, step, measure) for step in steps]
                axis.plot(steps, [statistics.fmean(each) for each in seeds], marker=".", label=start)
                axis.fill_between(steps, [min(each) for each in seeds], [max(each) for each in seeds], alpha=0.2)
            axis.set_title(f"{title}, held-out clips")
            axis.set_xlabel("steps of the video tokenizer")
        axes[0, 1].axhline(rows[-1]["change_of_still"], color="grey", linestyle=":", label="a still image")
        for axis in axes[0]:
            axis.legend()


if __name__ == "__main__":
    run(inflation)
