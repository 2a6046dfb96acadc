"""Ablation of the paper's Table 4 on moving digits: mechanisms against drift beyond the trained length.

    python -m experiments.ablation --tokenizer runs/demo/2_video_tokenizer/checkpoints/last.ckpt --out runs/ablation

For every seed and architecture a small transformer is trained on clips of 5 frames without any mechanism. From it, every row of the table
is trained on clips of 17 frames, for two lengths of training, all with equal compute: a row with a more expensive step takes fewer steps.
Compute is counted in tokens through the model, once forward and twice backward. Every model then generates clips of 65 frames, almost four
times the longest trained length: two per class by keeping the KV cache and one by re-encoding the last frames. A template matcher
classifies digit and motion in every frame. Every run is one ``train.py fit`` and two ``train.py predict``, called within one process to
save imports and to encode every clip once. Finished runs are kept, so the command may be interrupted and repeated; ``--table`` writes
the results of the finished runs. Writes ``ablation.csv``, ``ablation.md`` and a plot per strategy to ``--out``; plots need matplotlib.
"""

from __future__ import annotations

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
from scripts.cli import run

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
class Variant:
    """One row of the table.

    Attributes:
        name: Name in the table.
        options: Options of train.py.
        architecture: Key of ``ARCHITECTURES``.
        cost: Compute of a step relative to that of the paper's model.
    """

    name: str
    options: list[str]
    architecture: str = "paper"
    cost: float = 1.0


NO_FLIPS = ["--flip_ratio", "null", "--error_inheritance", "null"]


def flips(p_min: float, p_max: float, delta: float, inherit: bool) -> list[str]:
    ratios = ["--flip_ratio.p_min", str(p_min), "--flip_ratio.p_max", str(p_max), "--flip_ratio.delta", str(delta)]
    return [*ratios, *(["--error_inheritance.start_step", "0"] if inherit else ["--error_inheritance", "null"])]


def history_cost() -> float:
    """Return the tokens of a step with a separate history block, relative to the paper's."""
    return TokenSequence(LAYOUT, PROMPT_LENGTH, "last_scale").tokens / TokenSequence(LAYOUT, PROMPT_LENGTH).tokens


def rollout_cost(fraction: float = 0.25, frames: int = 2) -> float:
    """Return the relative compute of a step with a rollout: one more forward pass up to its last sampled frame."""
    layouts = [Layout(LAYOUT.pyramid, first + frames) for first in range(1, LAYOUT.frames - frames)]
    sampled = sum(TokenSequence(layout, PROMPT_LENGTH).tokens for layout in layouts) / len(layouts)
    return 1.0 + fraction * sampled / (3.0 * TokenSequence(LAYOUT, PROMPT_LENGTH).tokens)


PAPER = flips(0.0, 0.1, 0.01, inherit=True)
ROWS = [
    Variant("plain positions", [], "plain"),
    Variant("+ multi-scale temporal RoPE", []),
    Variant("+ time-dependent corruption", flips(0.0, 0.1, 0.01, inherit=False)),
    Variant("+ error inheritance", PAPER),
    Variant("flips without the rise", flips(0.0, 0.1, 0.0, inherit=False)),
    Variant("flips without the rise, same mean", flips(0.02, 0.12, 0.0, inherit=False)),
    Variant("inheritance without the rise", flips(0.0, 0.1, 0.0, inherit=True)),
    Variant("all + random frame mask", [*PAPER, *MASK]),
    Variant("all + last-scale history", PAPER, "last_scale", history_cost()),
    Variant("all + rollout training", [*PAPER, *ROLLOUT], cost=rollout_cost()),
    Variant("+ time-dependent corruption, p_max 0.25", flips(0.0, 0.25, 0.01, inherit=False)),
    Variant("+ error inheritance, p_max 0.25", flips(0.0, 0.25, 0.01, inherit=True)),
]
MAIN = [ROWS[number] for number in (0, 1, 2, 3, 10, 11)]  # the paper's rows, with its p_max and with ours
APART = [ROWS[number] for number in (1, 2, 3, 4, 6)]  # without flips, and with rise and inheritance apart and together
# Long-video strategies: options and number of clips per class.
WAYS = {"encoded_again": ([], 1), "tokens_kept": (["--model.long_video", "KVCacheWindow"], 2)}


@dataclass(frozen=True)
class Settings:
    """Settings that all runs share; see :func:`ablation`."""

    tokenizer: Path
    out: Path
    start_steps: int

    def start_folder(self, architecture: str, seed: int) -> Path:
        return self.out / f"start_{architecture}_{seed}"

    def prompts(self, samples: int) -> Path:
        return self.out / f"prompts_{samples}.jsonl"


def ablation(
    *,
    out: Path,
    tokenizer: Path | None = None,
    steps: int = 400,
    start_steps: int = 1000,
    seeds: int = 4,
    jobs: int = 1,
    table: bool = False,
) -> None:
    """Run the ablation of the paper's Table 4 on moving digits.

    Args:
        out: Folder for runs and results.
        tokenizer: Checkpoint of the demo's video tokenizer.
        steps: Steps on 17 frames at the cost of the paper's model; all rows also run with twice, the main ones with four times as many.
        start_steps: Steps on 5 frames.
        seeds: Number of seeds.
        jobs: Runs at the same time, each on one thread.
        table: Only write the results of the finished runs.
    """
    out.mkdir(parents=True, exist_ok=True)
    if not table:
        if tokenizer is None:
            raise ValueError("--tokenizer is needed to train")
        settings = Settings(tokenizer, out, start_steps)
        for samples in {samples for _, samples in WAYS.values()}:
            write_prompts(settings.prompts(samples), samples)
        # Seeds in the outer loop and the main question first, so that the table of an interrupted run is complete for its seeds.
        others = [row for row in ROWS if row not in APART]
        parts = [(steps, ROWS), (2 * steps, APART), (2 * steps, others), (4 * steps, MAIN)]
        runs = [(row, length, seed) for length, rows in parts for seed in range(seeds) for row in rows]
        with ProcessPoolExecutor(jobs, get_context("spawn"), begin_worker) as pool:
            wait(pool.submit(start_once, name, seed, settings) for seed in range(seeds) for name in ARCHITECTURES)
            wait(pool.submit(run_once, *each, settings) for each in runs)
    write_results(out, [row.name for row in ROWS], list(WAYS))


def wait(futures: Iterable[Future[str]]) -> None:
    """Report finished runs; raise the first error."""
    waiting = list(futures)
    for number, done in enumerate(as_completed(waiting), start=1):
        sys.stderr.write(f"{number} of {len(waiting)}: {done.result()}\n")


def begin_worker() -> None:
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def write_prompts(path: Path, samples: int) -> None:
    lines = [{"condition": name, "seed": seed, "frames": 65} for seed in range(samples) for name in CLASSES]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def start_once(architecture: str, seed: int, settings: Settings) -> str:
    """Train one network on short clips, unless already done; returns its name."""
    folder = settings.start_folder(architecture, seed)
    if not (folder / "done").exists():
        short = ["--data.clip.frames", "5", "--data.batch_size", "16", "--data.clips", "2048"]
        fit([*ARCHITECTURES[architecture], *short], settings.tokenizer, settings.start_steps, seed, folder)
        (folder / "done").touch()
    return folder.name


def run_once(row: Variant, steps: int, seed: int, settings: Settings) -> str:
    """Train and evaluate one model, unless already done; returns its name."""
    folder = settings.out / f"{steps}_{row.name.replace(' ', '_')}_{seed}"
    network, taken = ARCHITECTURES[row.architecture], round(steps / row.cost)
    if not any((folder / f"{way}.json").exists() for way in WAYS):
        start = settings.start_folder(row.architecture, seed) / "checkpoints" / "last.ckpt"
        long = ["--data.clip.frames", "17", "--data.batch_size", "6", "--data.clips", "1024"]
        fit([*network, *row.options, *long], start, taken, seed, folder)
    for way, (long_video, samples) in WAYS.items():
        result = folder / f"{way}.json"
        if not result.exists():
            about = {"row": row.name, "steps": steps, "steps_taken": taken, "seed": seed}
            classifier = {
                "class_path": "experiments.rollout_classifier.RolloutClassifier",
                "init_args": {"path": str(result), "about": about},
            }
            asked = ["-c", "configs/sample.yaml", "--data.prompts", str(settings.prompts(samples)), "--data.batch_size", "20"]
            where = ["--trainer.default_root_dir", str(folder), "--ckpt_path", str(folder / "checkpoints" / "last.ckpt")]
            made = [*SIZE, *network, *long_video, *asked, *where, "--trainer.callbacks", json.dumps([classifier])]
            train_py("predict", made, folder / f"{way}.txt")
    return folder.name


def fit(options: list[str], weights: Path, steps: int, seed: int, folder: Path) -> None:
    """Train for ``steps`` steps from the given weights, or resume an interrupted training."""
    folder.mkdir(parents=True, exist_ok=True)
    memory = {"class_path": "experiments.shared_latents.SharedLatents", "init_args": {"data": f"seed {seed}"}}
    where = ["--seed_everything", str(seed), "--data.seed", str(seed), "--trainer.max_steps", str(steps)]
    where += ["--trainer.limit_val_batches", "0"]
    where += ["--trainer.default_root_dir", str(folder), "--init_from", str(weights), "--ckpt_path", "last"]
    train_py(
        "fit",
        [*SIZE, "--model.latent_cache", json.dumps(memory), "--trainer.callbacks", "[]", *NO_FLIPS, *options, *where],
        folder / "fit.txt",
    )


def train_py(subcommand: str, arguments: list[str], output: Path) -> None:
    with output.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        train.main([subcommand, "-c", "configs/videoar.yaml", "--trainer.enable_progress_bar", "false", *arguments])


if __name__ == "__main__":
    run(ablation)
