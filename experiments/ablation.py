"""The paper's Table 4 on moving digits: which mechanism keeps a video longer than those it was trained on together?

    python -m experiments.ablation --tokenizer runs/demo/2_video_tokenizer/checkpoints/last.ckpt --out runs/ablation

Trains a small transformer on clips of 5 frames without any of the mechanisms, for every seed and architecture, and goes on from it with
clips of 17 frames for every row and two lengths of training, all with equal compute: a row whose step costs more takes fewer steps.
Compute is counted in tokens that pass through the model, once forward and twice backward. Every model then makes clips of 65 frames,
almost four times the longest it was trained on, two of each class by keeping tokens and one by encoding the last frames of a window
again, and a template matcher reads the digit and its motion in every frame. Every run is one of ``train.py fit`` and two of ``train.py
predict``, called within one process to save their imports and to encode no clip twice. Finished runs are kept: the command may be
interrupted and repeated, and ``--table`` shows what there is. Writes ``ablation.csv``, ``ablation.md`` and a plot for every way of
growing to ``--out``; plots need matplotlib.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

import train
from datamodules.digits.moving_digits import CLASSES
from experiments.ablation_results import write_results
from modules.geometry import Layout, Pyramid
from modules.transformer.sequence import TokenSequence

LAYOUT = Layout(Pyramid.of(4, 4), frames=5)
PROMPT_LENGTH = 2
SIZE = ["--model.transformer.width", "96", "--model.transformer.layers", "3"]
ARCHITECTURES = {
    "paper": [],
    "plain": ["--model.transformer.rope", "PlainRope"],
    "last_scale": ["--model.transformer.history", "last_scale"],
}
MASK = ["--model.frame_mask", "RandomFrameMask", "--model.frame_mask.probability", "0.2"]
ROLLOUT = ["--model.rollout", "Rollout", "--model.rollout.fraction", "0.25", "--model.rollout.frames", "2"]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        name: What it is called.
        options: What is added to a run to make it.
        architecture: Which of the networks it trains.
        cost: Cost of its step relative to that of the paper's model.
    """

    name: str
    options: list[str]
    architecture: str = "paper"
    cost: float = 1.0


def flips(p_min: float, p_max: float, delta: float, inherit: bool) -> list[str]:
    ratios = f'{{"class_path": "callbacks.FlipRatioSchedule", "init_args": {{"p_min": {p_min}, "p_max": {p_max}, "delta": {delta}}}}}'
    return ["--trainer.callbacks+=" + ratios, *(["--trainer.callbacks+=callbacks.ErrorInheritance"] if inherit else [])]


def history_cost() -> float:
    """Tokens of a step whose past frames have a block of their own, over those of the paper's."""
    return TokenSequence(LAYOUT, PROMPT_LENGTH, "last_scale").tokens / TokenSequence(LAYOUT, PROMPT_LENGTH).tokens


def rollout_cost(fraction: float = 0.25, frames: int = 2) -> float:
    """A step with a rollout passes forward, once more, the tokens up to its last sampled frame."""
    layouts = [Layout(LAYOUT.pyramid, first + frames) for first in range(1, LAYOUT.frames - frames)]
    sampled = sum(TokenSequence(layout, PROMPT_LENGTH).tokens for layout in layouts) / len(layouts)
    return 1.0 + fraction * sampled / (3.0 * TokenSequence(LAYOUT, PROMPT_LENGTH).tokens)


PAPER = flips(0.0, 0.1, 0.01, inherit=True)
ROWS = [
    Row("plain positions", [], "plain"),
    Row("+ multi-scale temporal RoPE", []),
    Row("+ time-dependent corruption", flips(0.0, 0.1, 0.01, inherit=False)),
    Row("+ error inheritance", PAPER),
    Row("flips without the rise", flips(0.0, 0.1, 0.0, inherit=False)),
    Row("flips without the rise, same mean", flips(0.02, 0.12, 0.0, inherit=False)),
    Row("inheritance without the rise", flips(0.0, 0.1, 0.0, inherit=True)),
    Row("all + random frame mask", [*PAPER, *MASK]),
    Row("all + last-scale history", PAPER, "last_scale", history_cost()),
    Row("all + rollout training", [*PAPER, *ROLLOUT], cost=rollout_cost()),
]
APART = [ROWS[number] for number in (1, 2, 3, 4, 6)]  # without flips, and with rise and inheritance apart and together
# How videos grow, and how many of each class.
WAYS = {"encoded_again": ([], 1), "tokens_kept": (["--model.long_video", "KVCacheWindow"], 2)}


def main() -> None:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        for samples in {samples for _, samples in WAYS.values()}:
            write_prompts(prompts(options, samples), samples)
        # Seeds outside and the main question first, so that an interrupted table is complete as far as it goes.
        others = [row for row in ROWS if row not in APART]
        parts = [(options.steps, ROWS), (2 * options.steps, APART), (2 * options.steps, others)]
        runs = [(row, steps, seed) for steps, rows in parts for seed in range(options.seeds) for row in rows]
        with ProcessPoolExecutor(options.jobs, get_context("spawn"), begin_worker) as pool:
            wait(pool.submit(start_once, name, seed, options) for seed in range(options.seeds) for name in ARCHITECTURES)
            wait(pool.submit(run_once, *run, options) for run in runs)
    write_results(options.out, [row.name for row in ROWS], list(WAYS))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, help="checkpoint of the demo's video tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and results")
    parser.add_argument("--steps", type=int, default=400, help="on 17 frames, at the cost of the paper's model; then twice as many")
    parser.add_argument("--start_steps", type=int, default=1000, help="on 5 frames")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, each on one thread")
    parser.add_argument("--table", action="store_true", help="only write the table of the runs that are finished")
    options = parser.parse_args()
    if not options.table and options.tokenizer is None:
        parser.error("--tokenizer is needed to train")
    return options


def wait(futures: Iterable[Future[str]]) -> None:
    """Say what is finished; end with the first error."""
    waiting = list(futures)
    for number, done in enumerate(as_completed(waiting), start=1):
        sys.stderr.write(f"{number} of {len(waiting)}: {done.result()}\n")


def begin_worker() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def prompts(options: argparse.Namespace, samples: int) -> Path:
    return options.out / f"prompts_{samples}.jsonl"


def write_prompts(path: Path, samples: int) -> None:
    lines = [{"condition": name, "seed": seed, "frames": 65} for seed in range(samples) for name in CLASSES]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def start_once(architecture: str, seed: int, options: argparse.Namespace) -> str:
    """Train one network on short clips, unless that was done before; returns its name."""
    folder = start_folder(architecture, seed, options)
    if not (folder / "done").exists():
        short = ["--data.clip.frames", "5", "--data.batch_size", "16", "--data.clips", "2048"]
        fit([*ARCHITECTURES[architecture], *short], options.tokenizer, options.start_steps, seed, folder)
        (folder / "done").touch()
    return folder.name


def run_once(row: Row, steps: int, seed: int, options: argparse.Namespace) -> str:
    """Train and judge one model, unless that was done before; returns its name."""
    folder = options.out / f"{steps}_{row.name.replace(' ', '_')}_{seed}"
    network, taken = ARCHITECTURES[row.architecture], round(steps / row.cost)
    if not any((folder / f"{way}.json").exists() for way in WAYS):
        start = start_folder(row.architecture, seed, options) / "checkpoints" / "last.ckpt"
        long = ["--data.clip.frames", "17", "--data.batch_size", "6", "--data.clips", "1024"]
        fit([*network, *row.options, *long], start, taken, seed, folder)
    for way, (long_video, samples) in WAYS.items():
        judged = folder / f"{way}.json"
        if not judged.exists():
            about = {"row": row.name, "steps": steps, "steps_taken": taken, "seed": seed}
            judge = {"class_path": "experiments.rollout_judge.RolloutJudge", "init_args": {"path": str(judged), "about": about}}
            asked = ["-c", "configs/sample.yaml", "--data.prompts", str(prompts(options, samples)), "--data.batch_size", "20"]
            run = ["--trainer.default_root_dir", str(folder), "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
            made = [*SIZE, *network, *long_video, *asked, *run, "--trainer.callbacks", json.dumps([judge])]
            train_py("predict", made, folder / f"{way}.txt")
    return folder.name


def start_folder(architecture: str, seed: int, options: argparse.Namespace) -> Path:
    return options.out / f"start_{architecture}_{seed}"


def fit(options: list[str], weights: Path, steps: int, seed: int, folder: Path) -> None:
    """One training of ``steps`` steps from the given weights; one that was interrupted goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    memory = {"class_path": "experiments.shared_latents.SharedLatents", "init_args": {"data": f"seed {seed}"}}
    run = ["--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.max_steps", str(steps), "--trainer.limit_val_batches", "0"]
    run += ["--trainer.default_root_dir", str(folder), "--init_from", str(weights), "--ckpt_path", "last"]
    train_py("fit", [*SIZE, "--model.latent_cache", json.dumps(memory), "--trainer.callbacks", "[]", *options, *run], folder / "fit.txt")


def train_py(subcommand: str, arguments: list[str], output: Path) -> None:
    with output.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        train.main([subcommand, "-c", "configs/videoar.yaml", "--trainer.enable_progress_bar", "false", *arguments])


if __name__ == "__main__":
    main()
