"""What there is in a data set: every file is decoded and measured, and the measures are summed up."""

from __future__ import annotations

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
from datamodules.decoding.reader import is_image, probe, display_size
from modules.geometry import Clip
from modules.storage.latents import bytes_of_latent

# Most words, sizes, rates and classes to name.
NAMED = 10

# Seconds by which the steps from frame to frame may differ at a constant rate; some containers round to milliseconds.
EVEN = 0.002

# Seconds by which a row may end after its file.
BEYOND = 0.1


class Facts(NamedTuple):
    """What a file is like.

    Attributes:
        height: Rows when it is upright.
        width: Columns.
        seconds: Duration; 0 for pictures.
        frames: Number of frames.
        fps: Mean frame rate; 0 for pictures.
        even: Whether all frames are shown equally long; None if nobody looked.
    """

    height: int
    width: int
    seconds: float
    frames: int
    fps: float
    even: bool | None


@dataclass(frozen=True)
class Plan:
    """What a data set shall be used for.

    Args:
        clip: What a clip measures.
        batch_size: Clips per process and step.
        processes: Number of processes.
        held_out_fraction: Share of the files to hold out.
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


def examine(path: Path, whole: bool = True) -> Facts:
    """Opens a file and decodes all of it, or its first frame only.

    Raises:
        UnreadableVideo: If something is wrong with what is decoded.
    """
    if is_image(path) or not whole:
        found, (height, width) = probe(path), display_size(path)
        return Facts(height, width, found.seconds, found.frames, found.fps, even=None)
    with opened(path) as (container, stream):
        times, sizes, end = [], set(), 0.0
        for shown in every(container, stream):
            times.append(shown.time)
            turned = round(shown.frame.rotation / 90) % 2
            sizes.add((shown.frame.width, shown.frame.height) if turned else (shown.frame.height, shown.frame.width))
            end = shown.end
        if len(sizes) > 1:
            raise DecodeError(f"its frames change their size: {', '.join(f'{height} x {width}' for height, width in sorted(sizes))}")
        steps = [after - before for before, after in pairwise(times)]
        even = not steps or max(steps) - min(steps) <= EVEN
        height, width = sizes.pop()
        return Facts(height, width, end, len(times), len(times) / end if end else 0.0, even)


def summary(rows: Sequence[ClipRecord], found: dict[Path, Facts | str], plan: Plan) -> dict[str, Any]:
    """Everything worth knowing about a data set, as JSON has it.

    Args:
        rows: Its rows.
        found: What every file is like, or why it cannot be read.
        plan: What it shall be used for.
    """
    wrong = {row.location: reason for row in rows if (reason := _wrong(row, found[row.path]))}
    sound = [row for row in rows if row.location not in wrong]
    facts = [fact for fact in found.values() if isinstance(fact, Facts)]
    videos = [fact for fact in facts if fact.fps > 0]
    return {
        "rows": len(rows),
        "files": {"videos": len(videos), "pictures": len(facts) - len(videos), "unreadable": len(found) - len(facts)},
        "unreadable": [{"row": row.location, "path": row.listed_path, "reason": wrong[row.location]} for row in rows if row.location in wrong],
        "seconds": {"total": sum(fact.seconds for fact in videos), **_spread(fact.seconds for fact in videos)},
        "frames": {"total": sum(fact.frames for fact in videos), **_spread(fact.frames for fact in videos)},
        "fps": _most(f"{fact.fps:.3f}".rstrip("0").rstrip(".") for fact in videos),
        "uneven": sum(fact.even is False for fact in videos),
        "sizes": _most(f"{fact.height} x {fact.width}" for fact in facts),
        "captions": _captions([row.caption for row in rows if row.caption]),
        "labels": _most(str(row.label) for row in rows if row.label is not None),
        "epoch": _epoch(sound, found, plan),
    }


def _wrong(row: ClipRecord, fact: Facts | str) -> str:
    """Why a row gives no clip; "" if it does."""
    if isinstance(fact, str):
        return fact
    beyond = fact.fps > 0 and max(row.start, row.end or 0.0) > fact.seconds + BEYOND
    return f"{row.path}: the row goes to {max(row.start, row.end or 0.0):.3f} s, the file to {fact.seconds:.3f} s" if beyond else ""


def _spread(values: Iterable[float]) -> dict[str, float]:
    known = list(values)
    return {"least": min(known), "median": median(known), "mean": fmean(known), "most": max(known)} if known else {}


def _most(values: Iterable[str]) -> dict[str, int]:
    """How often the most frequent values occur, and all others together."""
    counts = Counter(values)
    named = dict(counts.most_common(NAMED))
    others = counts.total() - sum(named.values())
    return named | ({f"{len(counts) - NAMED} others": others} if others else {})


def _captions(captions: list[str]) -> dict[str, Any]:
    words = [re.findall(r"\w+", caption.lower()) for caption in captions]
    return {
        "rows": len(captions),
        "different": len(set(captions)),
        "characters": _spread(map(len, captions)),
        "words": _spread(map(len, words)),
        "different words": len({word for text in words for word in text}),
        "frequent words": dict(Counter(word for text in words for word in text).most_common(NAMED)),
    }


def _epoch(rows: list[ClipRecord], found: dict[Path, Facts | str], plan: Plan) -> dict[str, Any]:
    """What training makes of the rows: the same steps as in VideoFolder."""
    lengths = {path: fact.seconds for path, fact in found.items() if isinstance(fact, Facts)}
    ended = [row if row.end is not None or is_image(row.path) else replace(row, end=lengths[row.path]) for row in rows]
    try:
        used = fitting_records(ended, plan.clip)
        train, held = hold_out(used, plan.held_out_fraction)
    except ValueError as error:
        return {"clips": 0, "held out": 0, "batches": 0, "trouble": str(error)}
    size = bytes_of_latent(plan.latent, "float32")  # as caches are unless told otherwise
    return {
        "clips": len(train),
        "held out": len(held),
        "batches": len(train) // (plan.batch_size * plan.processes),
        "latent": list(plan.latent),
        "latent bytes": size,
        "cache bytes": size * len(used),
    }
