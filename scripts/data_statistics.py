"""Statistics of a dataset from decoding all of its files."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from datamodules.clips.dataset import fitting_records
from datamodules.clips.manifest import ClipRecord
from datamodules.clips.video_folder import hold_out
from datamodules.decoding.frames import DecodeError, every, opened
from datamodules.decoding.pixels import upright_size
from datamodules.decoding.reader import display_size, is_image, probe
from modules.geometry import Clip
from modules.storage.latents import bytes_of_latent

# Words, sizes, rates and classes to list at most.
MAX_LISTED = 10

# Seconds by which frame intervals may differ at a constant rate; some containers round to milliseconds.
CONSTANT_RATE = 0.002

# Seconds by which a line may end after its file.
END_TOLERANCE = 0.1


class FileFacts(NamedTuple):
    """Measurements of a file.

    Attributes:
        height: Height after rotation.
        width: Width after rotation.
        seconds: Duration; 0 for images.
        frames: Number of frames.
        fps: Mean frame rate; 0 for images.
        even: Whether the frame rate is constant; None if unknown.
    """

    height: int
    width: int
    seconds: float
    frames: int
    fps: float
    even: bool | None


@dataclass(frozen=True)
class TrainingPlan:
    """Training that a dataset is checked for.

    Args:
        clip: Number, rate and size of the frames.
        batch_size: Clips per process and step.
        processes: Number of processes.
        held_out_fraction: Fraction of the files to hold out.
        bits: Bits of a token.
        temporal_factor: Frames per latent frame.
        spatial_factor: Pixels per token, along a side.

    Raises:
        ValueError: If a number is below 1 or the clip does not fit the tokenizer.
    """

    clip: Clip
    batch_size: int = 8
    processes: int = 1
    held_out_fraction: float = 0.05
    bits: int = 48
    temporal_factor: int = 4
    spatial_factor: int = 16

    def __post_init__(self) -> None:
        for name in ("batch_size", "processes", "bits", "temporal_factor", "spatial_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction must be at least 0 and below 1, got {self.held_out_fraction}")
        if (self.clip.frames - 1) % self.temporal_factor:
            raise ValueError(f"frames must be 1 + {self.temporal_factor} * n, got {self.clip.frames}")
        for name in ("height", "width"):
            if getattr(self.clip, name) % self.spatial_factor:
                raise ValueError(f"{name} must be a multiple of {self.spatial_factor}, got {getattr(self.clip, name)}")

    @property
    def latent(self) -> tuple[int, int, int, int]:
        """``(d, t, h, w)`` of a clip's latent."""
        frames = 1 + (self.clip.frames - 1) // self.temporal_factor
        return self.bits, frames, self.clip.height // self.spatial_factor, self.clip.width // self.spatial_factor


def examine(path: Path, whole: bool = True, time_limit: float = math.inf) -> FileFacts:
    """Decode all of a file, or only its first frame if not ``whole``.

    Raises:
        UnreadableVideo: If a decoded frame is damaged or missing, or the frames change their size.
    """
    if is_image(path) or not whole:
        found, (height, width) = probe(path, time_limit), display_size(path, time_limit)
        return FileFacts(height, width, found.seconds, found.frames, found.fps, even=None)
    with opened(path, time_limit) as video:
        times, sizes, end = [], set(), 0.0
        for decoded in every(video):
            times.append(decoded.time)
            sizes.add(upright_size(decoded.frame))
            end = decoded.end
        if len(sizes) > 1:
            raise DecodeError(f"its frames change their size: {', '.join(f'{height} x {width}' for height, width in sorted(sizes))}")
        steps = [after - before for before, after in pairwise(times)]
        even = not steps or max(steps) - min(steps) <= CONSTANT_RATE
        height, width = sizes.pop()
        return FileFacts(height, width, end, len(times), len(times) / end if end else 0.0, even)


def summary(records: Sequence[ClipRecord], found: dict[Path, FileFacts | str], plan: TrainingPlan) -> dict[str, Any]:
    """Return the statistics of a dataset as a JSON object.

    Args:
        records: Its records.
        found: Measurements of every file, or the reason why it is unreadable.
        plan: Training that it is checked for.
    """
    reasons = {record.location: reason for record in records if (reason := _unusable(record, found[record.path]))}
    usable = [record for record in records if record.location not in reasons]
    facts = [fact for fact in found.values() if isinstance(fact, FileFacts)]
    videos = [fact for fact in facts if fact.fps > 0]
    return {
        "rows": len(records),
        "files": {"videos": len(videos), "pictures": len(facts) - len(videos), "unreadable": len(found) - len(facts)},
        "unreadable": [
            {"row": record.location, "path": record.listed_path, "reason": reasons[record.location]}
            for record in records
            if record.location in reasons
        ],
        "seconds": {"total": sum(fact.seconds for fact in videos), **_spread(fact.seconds for fact in videos)},
        "frames": {"total": sum(fact.frames for fact in videos), **_spread(fact.frames for fact in videos)},
        "fps": _most(f"{fact.fps:.3f}".rstrip("0").rstrip(".") for fact in videos),
        "uneven": sum(fact.even is False for fact in videos),
        "sizes": _most(f"{fact.height} x {fact.width}" for fact in facts),
        "captions": _captions([record.caption for record in records if record.caption]),
        "labels": _most(str(record.label) for record in records if record.label is not None),
        "epoch": _epoch(usable, found, plan),
    }


def _unusable(record: ClipRecord, fact: FileFacts | str) -> str:
    """Return the reason why a record yields no clip; "" if it does."""
    if isinstance(fact, str):
        return fact
    beyond = fact.fps > 0 and max(record.start, record.end or 0.0) > fact.seconds + END_TOLERANCE
    return (
        f"{record.path}: the line goes to {max(record.start, record.end or 0.0):.3f} s, the file to {fact.seconds:.3f} s" if beyond else ""
    )


def _spread(values: Iterable[float]) -> dict[str, float]:
    known = list(values)
    return {"least": min(known), "median": median(known), "mean": fmean(known), "most": max(known)} if known else {}


def _most(values: Iterable[str]) -> dict[str, int]:
    """Return the counts of the most frequent values, and of all others together."""
    counts = Counter(values)
    named = dict(counts.most_common(MAX_LISTED))
    others = counts.total() - sum(named.values())
    return named | ({f"{len(counts) - MAX_LISTED} others": others} if others else {})


def _captions(captions: list[str]) -> dict[str, Any]:
    words = [re.findall(r"\w+", caption.lower()) for caption in captions]
    return {
        "rows": len(captions),
        "different": len(set(captions)),
        "characters": _spread(map(len, captions)),
        "words": _spread(map(len, words)),
        "different words": len({word for text in words for word in text}),
        "frequent words": dict(Counter(word for text in words for word in text).most_common(MAX_LISTED)),
    }


def _epoch(records: list[ClipRecord], found: dict[Path, FileFacts | str], plan: TrainingPlan) -> dict[str, Any]:
    """Return the size of a training epoch, by the same steps as in VideoFolder."""
    lengths = {path: fact.seconds for path, fact in found.items() if isinstance(fact, FileFacts)}
    ended = [record if record.end is not None or is_image(record.path) else replace(record, end=lengths[record.path]) for record in records]
    try:
        used = fitting_records(ended, plan.clip)
        train, held = hold_out(used, plan.held_out_fraction)
    except ValueError as error:
        return {"clips": 0, "held out": 0, "batches": 0, "trouble": str(error)}
    size = bytes_of_latent(plan.latent, "float32")  # the default of a latent cache
    return {
        "clips": len(train),
        "held out": len(held),
        "batches": len(train) // (plan.batch_size * plan.processes),
        "latent": list(plan.latent),
        "latent bytes": size,
        "cache bytes": size * len(used),
    }
