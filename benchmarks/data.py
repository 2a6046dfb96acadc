"""Throughput of clips from files, of cached and streamed latents, and the time that a model waits for them.

    python -m benchmarks.data --manifest clips/captions.jsonl --frames 25 --height 128 --width 128 --out runs/data
    python -m benchmarks.data --manifest clips/captions.jsonl --frames 25 --height 128 --width 128 --train --layers 12 --width_of_model 768

*Bare* opens the same files with PyAV one after the other, decodes their first ``--frames`` frames and turns them into RGB arrays with
``to_ndarray``, nothing else; frames of another size than ``--height`` and ``--width`` it resizes (bicubic) until they cover that. Give the
length and rate that the files have: clips are then their first frames, and no seeking is compared with none. *Tuned* is the same loop with
one ``VideoReformatter`` for all files, which ``to_ndarray`` makes anew for every frame. *Read* calls ``read_clip`` alone.
Latents are random, of the shape that a tokenizer with 48 bits and 16 x 16 pixels and 4 frames per token gives.

All kinds take turns in one process, and ratios are taken turn by turn, as other programs may slow down the machine; also of processor time
(of this process and of all that it started; Linux), which is about what the same work takes when nothing else runs. ``--train`` trains a
model on latents and on clips (which a small random tokenizer then encodes) and reports the fraction of the time spent waiting for batches.
Prints a Markdown table; ``--out`` writes it and everything measured as JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import torch
from av.video.reformatter import Interpolation, VideoReformatter
from lightning import Trainer
from lightning.pytorch.profilers import SimpleProfiler

from benchmarks.tokenizer import conditions
from datamodules import CachedLatents, ClipDataModule, StreamedLatents, VideoFolder
from datamodules.clips.manifest import ClipRecord
from datamodules.decoding.reader import read_clip
from datamodules.latents.litdata_format import litdata
from modules import LitVideoAR
from modules.geometry import Clip
from modules.storage.latents import CachedClip, CacheHeader, LatentCache, clips_of_shard, header_path, shard_path, write_shard
from modules.tokenizer import VideoTokenizer
from modules.transformer import TextCondition, VideoARTransformer
from scripts.stream_latents import write_stream

KINDS = {
    "bare": "bare PyAV loop",
    "tuned": "bare PyAV loop, tuned",
    "read": "clips read (read_clip)",
    "clips": "clips decoded (VideoFolder)",
    "cache": "latents from the cache (CachedLatents)",
    "stream": "latents from LitData (StreamedLatents)",
}


def small_tokenizer() -> VideoTokenizer:
    """16 x 16 pixels and 4 frames to a token of 48 bits, as the paper's, with few channels."""
    torch.manual_seed(0)
    return VideoTokenizer(bits=48, channels=16, multipliers=(1, 1, 1, 1), blocks=1, patch=2, groups=4)


def write_cache(folder: Path, clips: ClipDataModule, rows: list[ClipRecord], tokenizer: VideoTokenizer) -> None:
    """Random latents for all clips, with their captions."""
    latent = tokenizer.latent_shape(clips.clip)
    header = CacheHeader(
        tokenizer=tokenizer.fingerprint(),
        source="random",
        preprocessing=clips.preprocessing,
        clip=clips.clip,
        latent=latent,
        temporal_factor=tokenizer.shape.temporal_factor,
        dtype="float32",
        splits={"train": len(rows)},
        same={},
        class_names=[],
        captions=clips.captions,
        clips_per_shard=clips_of_shard(latent, "float32"),
    )
    header_path(folder).write_text(header.to_json())
    (folder / "train").mkdir()
    for shard in header.shards():
        numbers = range(shard.first, shard.first + shard.count)
        made = [CachedClip(torch.randn(latent), -1, rows[number].caption, number) for number in numbers]
        write_shard(shard_path(folder, shard.name), header, shard, made)


class Bench:
    """Loaders of one set of clips in all kinds."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        torch.set_num_threads(options.threads)
        self.options, self.tokenizer = options, small_tokenizer()
        self.folder = folder
        self.clips = self.source("clips")
        self.records = self.clips.dataset("train").records  # type: ignore[attr-defined]
        (folder / "cache").mkdir()
        write_cache(folder / "cache", self.clips, self.records, self.tokenizer)
        self.names = ["clips", "cache"]
        if installed():
            write_stream(LatentCache(folder / "cache"), str(folder / "stream"))
            self.names.append("stream")
        self._batches = {name: forever(self.source(name).train_dataloader()) for name in self.names}
        self._files = itertools.cycle(random.Random(0).sample([row.path for row in self.records], len(self.records)))

    def source(self, name: str, max_frames: int = 10**6) -> ClipDataModule:
        options = self.options
        clip = Clip(min(options.frames, max_frames), options.height, options.width)
        settings: Any = {"batch_size": options.batch_size, "workers": options.workers}
        if name == "clips":
            return VideoFolder(clip, manifest=options.manifest, held_out_fraction=0, **settings)
        return {"cache": CachedLatents, "stream": StreamedLatents}[name](clip, folder=str(self.folder / name), **settings)

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Return the measured functions; each loads ``--clips`` clips."""
        tuned = VideoReformatter()
        return {
            "bare": partial(self.bare, VideoReformatter),
            "tuned": partial(self.bare, lambda: tuned),
            "read": self.read,
            **{name: partial(self.load, name) for name in self.names},
        }

    def load(self, name: str) -> None:
        for _ in range(self.options.clips // self.options.batch_size):
            next(self._batches[name])

    def bare(self, converter: Callable[[], VideoReformatter]) -> None:
        height, width = self.options.height, self.options.width
        for path in itertools.islice(self._files, self.options.clips):
            with av.open(str(path)) as container:
                container.streams.video[0].thread_type = "NONE"
                for frame in itertools.islice(container.decode(video=0), self.options.frames):
                    scale = max(height / frame.height, width / frame.width)
                    size = {"height": round(scale * frame.height), "width": round(scale * frame.width)}
                    converter().reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1, **size).to_ndarray()

    def read(self) -> None:
        for path in itertools.islice(self._files, self.options.clips):
            read_clip(path, self.clips.clip)

    def waiting(self, name: str) -> dict[str, float]:
        """Of some training steps, after one to warm up: seconds in all and seconds spent waiting for batches."""
        options, source = self.options, self.source(name, max_frames=17)
        size = {"width": options.width_of_model, "layers": options.layers, "heads": options.heads}
        model = LitVideoAR(self.tokenizer, lambda bits: VideoARTransformer(bits, lambda width: TextCondition(width, 2048, 12), **size))
        model.weights_source = "random"
        profiler = SimpleProfiler()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(max_steps=options.steps + 1, limit_val_batches=0, profiler=profiler, accelerator="cpu", **quiet)
        trainer.fit(model, datamodule=source)
        waits = profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"][1:]
        works = profiler.recorded_durations["run_training_batch"][1:]
        return {"waiting": sum(waits[: options.steps]), "working": sum(works), "parameters": parameters(model.transformer)}


def installed() -> bool:
    try:
        litdata()
    except ValueError:
        return False
    return True


def forever(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader


def busy(process: int | str = "self") -> float:
    """Seconds of processor time of a process and of all that it started and that are alive."""
    mine = time.process_time() if process == "self" else time.clock_gettime((~int(process) << 3) | 2)
    children = [child for task in Path(f"/proc/{process}/task").iterdir() for child in (task / "children").read_text().split()]
    return mine + sum(map(busy, children))


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def measure(options: argparse.Namespace) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        kinds = bench.kinds()
        seconds: dict[str, list[float]] = {name: [] for name in kinds}
        processor: dict[str, list[float]] = {name: [] for name in kinds}
        for turn in range(options.repeats + 1):
            for name, kind in kinds.items():
                start, begun = time.perf_counter(), busy()
                kind()
                if turn > 0:  # the first one warms up
                    seconds[name].append(time.perf_counter() - start)
                    processor[name].append(busy() - begun)
        waiting = {name: bench.waiting(name) for name in ("cache", "clips")} if options.train else {}
        latent = bench.tokenizer.latent_shape(bench.clips.clip)
        return {"files": len(bench.records), "latent": latent, "seconds": seconds, "processor": processor, "waiting": waiting}


def table(results: dict[str, Any]) -> str:
    """A row per kind: clips per second and times the time of the bare loop, turn by turn."""
    seconds, clips = results["seconds"], results["clips"]
    size = f"{results['frames']} x {results['height']} x {results['width']}"
    lines = [f"{results['files']} files, clips of {size}, latents of {' x '.join(map(str, results['latent']))}"]
    lines += [f"batches of {results['batch_size']}, {results['workers']} workers, {results['threads']} threads of {results['device']}"]
    lines += [
        f"medians of {results['repeats']} turns of {clips} clips",
        "",
        "| | clips per second | time over that of the bare loop | processor time over that of the bare loop |",
    ]
    lines.append("|---|---|---|---|")
    for name, taken in seconds.items():
        spreads = " | ".join(spread(results[measure], name) for measure in ("seconds", "processor"))
        lines.append(f"| {KINDS[name]} | {clips / statistics.median(taken):.0f} | {spreads} |")
    for name, found in results["waiting"].items():
        share = found["waiting"] / (found["waiting"] + found["working"])
        lines += [""] * (name == "cache")
        lines.append(
            f"{KINDS[name]}: a model of {found['parameters'] / 1e6:.1f} M waits {share:.2%} of its training time "
            f"({found['waiting']:.3f} of {found['waiting'] + found['working']:.1f} s, {results['steps']} steps)"
        )
    return "\n".join(lines) + "\n"


def spread(taken: dict[str, list[float]], name: str) -> str:
    """Median, least and most of a kind's times over those of the bare loop, turn by turn."""
    ratios = [one / bare for one, bare in zip(taken[name], taken["bare"], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, help="videos that are at least as long as a clip")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clips", type=int, default=64, help="clips per turn")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--train", action="store_true", help="also train a model, on 17 frames at most")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--width_of_model", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--out", type=Path, help="path of the results without suffix")
    parser.set_defaults(device="cpu")
    return parser.parse_args()


def main() -> None:
    options = parse()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    results = {**vars(options), **conditions(options), "out": None}
    results["command"] = " ".join(["python", "-m", "benchmarks.data", *sys.argv[1:]])
    results |= measure(options)
    text = table(results)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".md").write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
