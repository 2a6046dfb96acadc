"""Trainings in processes of their own that are killed like lost machines, and what every step of them saw."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hostile_files import write_video
from lightning import Callback, LightningModule, Trainer
from PIL import Image
from toy_runs import CONFIGS, ROOT, TESTS

# Clips of all processes together in a step, by the number of frames.
BATCHES = {5: 4, 1: 8}

# Seconds after which a launch is taken to hang.
LONGEST = 1800.0

# A step of a run: what its clips are, and what is in them. Those of all processes, in the order of their ranks.
Step = list[tuple[int, float]]


class StepLog(Callback):
    """Writes down every step that begins, as a line of its own that is on disc before the step goes on.

    Args:
        folder: Where to; a file per rank.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        clips = zip(batch["index"].tolist(), batch["video"].double().sum((1, 2, 3, 4)).tolist(), strict=True)
        with open(self.folder / f"{trainer.global_rank}.jsonl", "a") as file:
            file.write(f"{json.dumps([trainer.global_step, trainer.world_size, list(clips)])}\n")


@dataclass
class Training:
    """One training of a toy tokenizer on pictures and videos of one manifest, in any number of launches.

    Args:
        folder: Of the run.
        manifest: What it is trained on.
        steps: Its length.
    """

    folder: Path
    manifest: Path
    steps: int
    launches: list[dict[int, Step]] = field(default_factory=list)

    def launch(self, workers: int, ranks: int, kill_at: int | None = None, delay: float = 0.0) -> dict[int, Step]:
        """Starts it or goes on with it, until it ends, or is killed ``delay`` seconds after step ``kill_at`` began.

        Returns:
            What every step saw.
        """
        log = self.folder / f"launch{len(self.launches)}"
        log.mkdir(parents=True)
        with open(log / "output", "wb") as output:
            command = self._command(log, workers, ranks)
            paths = {**os.environ, "PYTHONPATH": str(TESTS)}
            # A session of its own: all processes of the training, and nobody else.
            process = subprocess.Popen(command, cwd=ROOT, env=paths, stdout=output, stderr=output, start_new_session=True)
            try:
                self._watch(process, log, ranks, kill_at)
                time.sleep(delay)
            finally:
                kill_session(process)
        # A launch that ends by itself before it is killed must not pass for one that was killed before its first step.
        if process.returncode != 0 and (kill_at is None or process.returncode != -signal.SIGKILL):
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{(log / 'output').read_text()[-3000:]}")
        self.launches.append(read_steps(log, ranks))
        return self.launches[-1]

    def _watch(self, process: subprocess.Popen, log: Path, ranks: int, kill_at: int | None) -> None:
        until = time.monotonic() + LONGEST
        while process.poll() is None:
            if kill_at is not None and max(read_steps(log, ranks), default=-1) >= kill_at:
                return
            if time.monotonic() > until:
                raise TimeoutError(f"the run takes too long:\n{(log / 'output').read_text()[-3000:]}")
            time.sleep(0.02)

    def _command(self, log: Path, workers: int, ranks: int) -> list[str]:
        overlay = self.folder / f"{ranks}_{workers}.yaml"
        overlay.write_text(yaml.safe_dump({"data": data_of(self.manifest, workers, ranks)}))
        options = {
            "trainer.default_root_dir": self.folder,
            "trainer.max_steps": self.steps,
            "trainer.limit_val_batches": 0,
            "trainer.val_check_interval": "null",
            "trainer.callbacks": '[{"class_path": "killed_runs.StepLog", "init_args": {"folder": "' + str(log) + '"}}]',
            "checkpoint.every_n_train_steps": 2,
            "ckpt_path": "last",
            **({"trainer.devices": ranks, "trainer.strategy": "ddp"} if ranks > 1 else {}),
        }
        files = [CONFIGS / "tokenizer.yaml", TESTS / "toy.yaml", overlay]
        configs = [text for file in files for text in ("-c", str(file))]
        return [sys.executable, "train.py", "fit", *configs, *(f"--{key}={value}" for key, value in options.items())]


def kill_session(process: subprocess.Popen) -> None:
    """SIGKILL to a process and all of its session: ranks, workers and helpers alike."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read_steps(log: Path, ranks: int) -> dict[int, Step]:
    """What the steps saw that began on all ranks."""
    shares: list[dict[int, Step]] = []
    for rank in range(ranks):
        path = log / f"{rank}.jsonl"
        # A line that is not complete yet belongs to a step that has not begun.
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        shares.append({step: [tuple(clip) for clip in clips] for step, _, clips in map(json.loads, lines)})
    common = set.intersection(*map(set, shares))
    return {step: [clip for share in shares for clip in share[step]] for step in sorted(common)}


def data_of(manifest: Path, workers: int, ranks: int) -> dict[str, Any]:
    """Videos and pictures of one manifest, with fresh views; a step takes as many clips for every number of processes."""

    def part(frames: int, kind: str) -> dict[str, Any]:
        clip = {"frames": frames, "height": 16, "width": 16, "fps": 8}
        sizes = {"clip": clip, "batch_size": BATCHES[frames] // ranks, "workers": workers}
        views = {"class_path": "datamodules.FreshViews", "init_args": {"flip": True}}
        choice = {"manifest": str(manifest), "where": {"kind": kind}, "held_out_fraction": 0, "broken_limit": 0.3, "views": views}
        return {"class_path": "datamodules.VideoFolder", "init_args": {**sizes, **choice}}

    parts = {"video": part(5, "video"), "images": part(1, "picture")}
    return {"class_path": "datamodules.Mixture", "init_args": {"parts": parts, "ratio": {"video": 2, "images": 1}, "main": "video"}}


def write_clips(folder: Path) -> Path:
    """A manifest of 13 videos, one of them broken at its end and one from its start, and 11 pictures."""
    folder.mkdir()
    rows = []
    for number in range(13):
        path = write_video(folder / f"{number}.mkv", frames=30 + number)
        content = path.read_bytes()
        if number in (3, 7):
            path.write_bytes(content[: len(content) // 2] if number == 3 else bytes(2000) + content[2000:])
        rows.append({"path": path.name, "kind": "video", "end": 1.2})
    for number in range(11):
        Image.new("RGB", (40, 30), (20 * number, 100, 50)).save(folder / f"{number}.png")
        rows.append({"path": f"{number}.png", "kind": "picture"})
    manifest = folder / "clips.jsonl"
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return manifest
