"""Compares a folder of videos with a folder of reference videos, without a model.

    python -m scripts.compare_folders my/videos reference/videos runs/folders
    python -m scripts.compare_folders my/videos ucf101/train runs/folders --protocol configs/protocol/tats.yaml \\
        --features I3D --features.path i3d_torchscript.pt

Videos are looked for in subfolders too, and compared from their first frame on, at the size and rate of the protocol, or of the first
reference video where the protocol has none. The distance stands beside its floor, reference videos against other reference videos, and
beside that of reference videos frozen at their first frame. Videos that are too short are left out and counted. Writes ``results.json``.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import auto_cli, lazy_instance
from torch import Tensor

import modules  # noqa: F401 - imported classes have short names on the command line
from datamodules.decoding.reader import VIDEOS, UnreadableVideo, probe, read_clip
from modules.geometry import Clip
from modules.metrics import Protocol, RandomFeatures, RealVideos, Results, VideoFeatures, distance_rows, origin, table
from modules.storage.atomic_files import write_text
from modules.user_errors import user_error

log = logging.getLogger("compare_folders")


def evaluate(
    made: str,
    reference: str,
    out: str,
    features: VideoFeatures = lazy_instance(RandomFeatures),  # noqa: B008
    protocol: Protocol = Protocol(),  # noqa: B008 (frozen)
    batch_size: int = 8,
    device: str = "cpu",
) -> Results:
    """Compare two folders.

    Args:
        made: Folder of the videos to judge.
        reference: Folder of the videos to compare with.
        out: Folder for results.json.
        features: The network; the distance is named after it.
        protocol: What to compare; its split, classes and repeats have no meaning here.
        batch_size: Videos per call of the network.
        device: Where the network runs, such as cuda.

    Raises:
        ValueError: If a folder holds fewer than two videos that are long enough, or the protocol does not fit.
    """
    theirs, ours = videos_in(reference), videos_in(made)
    clip = clip_of(protocol, theirs[0])
    protocol.departures(clip, features.title, 0, 0)
    features = features.to(device)

    def look(files: Sequence[Path], most: int | None) -> tuple[Tensor, Tensor]:
        return vectors_of(files, most, clip, features, batch_size)

    vectors, frozen = look(theirs, protocol.clips and 2 * protocol.clips)
    wanted = min(protocol.clips or len(vectors), len(vectors))
    found, _ = look(ours, protocol.clips)
    departures = protocol.departures(clip, features.title, wanted, len(found))
    note = f"not {protocol.name}: {', '.join(departures)}" if departures else ""
    real = RealVideos(vectors, torch.full((len(vectors),), -1), wanted)
    rows = distance_rows(real, {"static": [frozen[:wanted]], "made": [found]}, features.title, lambda name: note if name == "made" else "")
    about = {"made": made, "reference": reference, "clip": vars(clip), "fingerprint": features.fingerprint(), "device": device}
    results = Results(rows, protocol.plain(), origin(None, **about))
    write_text(Path(out) / "results.json", results.text())
    sys.stdout.write(f"protocol {protocol.name}\n{table(rows)}\n")
    return results


def videos_in(folder: str) -> list[Path]:
    """Videos in a folder and below it, in an order that is drawn by chance and always the same.

    Raises:
        ValueError: If there are fewer than two.
    """
    found = sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in VIDEOS and path.is_file())
    if len(found) < 2:
        raise ValueError(f"the folder {folder} must hold at least two videos, it has {len(found)}; they end in {', '.join(sorted(VIDEOS))}")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[number] for number in order.tolist()]


def clip_of(protocol: Protocol, first: Path) -> Clip:
    """What the protocol says, and a reference video where it says nothing."""
    known = probe(first)
    return Clip(protocol.frames, protocol.height or known.height, protocol.width or known.width, protocol.fps or known.fps)


def vectors_of(files: Sequence[Path], most: int | None, clip: Clip, features: VideoFeatures, batch_size: int) -> tuple[Tensor, Tensor]:
    """Vectors ``(N, D)`` of the first ``most`` videos that can be read, or all, and of their frozen first frames.

    Raises:
        ValueError: If fewer than two can be read.
    """
    device = next(features.parameters()).device
    moving, frozen, batch, lost = [], [], [], 0

    def flush() -> None:
        video = torch.stack(batch).to(device)
        moving.append(features(video).cpu())
        frozen.append(features(video[:, :, :1].expand_as(video)).cpu())
        batch.clear()

    for file in files:
        if len(batch) + sum(map(len, moving)) == most:
            break
        try:
            batch.append(read_clip(file, clip))
        except UnreadableVideo as error:
            lost += 1
            log.warning("left out: %s", error)
        if len(batch) == batch_size:
            flush()
    if batch:
        flush()
    if sum(map(len, moving)) < 2:
        raise ValueError(f"fewer than two of {len(files)} videos have {clip.frames} frames at {clip.fps:g} per second")
    if lost:
        log.warning("%d of %d videos were left out", lost, len(files))
    return torch.cat(moving), torch.cat(frozen)


def main(args: list[str] | None = None) -> Results:
    """Parse and run."""
    return auto_cli(evaluate, args=args, as_positional=True, exit_on_error=False, description=__doc__)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        main()
    except Exception as error:
        text = user_error(error)
        if text is None or os.environ.get("VIDEOAR_DEBUG"):
            raise
        sys.exit(f"error: {text}")
