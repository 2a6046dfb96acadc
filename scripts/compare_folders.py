"""Comparison of a folder of videos with a folder of reference videos, without a model.

    python -m scripts.compare_folders my/videos reference/videos runs/folders
    python -m scripts.compare_folders my/videos ucf101/train runs/folders --protocol configs/protocol/tats.yaml \\
        --features I3D --features.path i3d_torchscript.pt

Videos are searched in subfolders too and compared from their first frame on, at the size and rate of the protocol, or of the first
reference video where the protocol has none. The table also has real-vs-real (reference videos against other reference videos) and static
(reference videos frozen at their first frame). Videos that are too short are skipped and counted. Writes ``report.json``.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from jsonargparse.typing import lazy_instance
from torch import Tensor

import modules  # noqa: F401 - imported classes have short names on the command line
from datamodules.decoding.reader import VIDEOS, UnreadableVideo, probe, read_clip
from modules.geometry import Clip
from modules.metrics import (
    Evaluation,
    Protocol,
    RandomFeatures,
    RealVideos,
    VideoFeatures,
    distance_measurements,
    provenance,
    write_report,
)
from scripts.cli import run

log = logging.getLogger(__name__)


def compare(
    made: str,
    reference: str,
    out: str,
    features: VideoFeatures = lazy_instance(RandomFeatures),  # noqa: B008
    protocol: Protocol = Protocol(),  # noqa: B008 (frozen)
    batch_size: int = 8,
    device: str = "cpu",
) -> Evaluation:
    """Compare a folder of videos with a folder of reference videos.

    Args:
        made: Folder of the videos to evaluate.
        reference: Folder of the videos to compare with.
        out: Folder for report.json.
        features: The feature network; the distance is named after it.
        protocol: Settings of the comparison; its split, classes and repeats are ignored.
        batch_size: Videos per call of the network.
        device: Device of the network, such as cuda.

    Raises:
        ValueError: If a folder has fewer than two videos that are long enough, or the protocol does not fit.
    """
    real_files, made_files = videos_in(reference), videos_in(made)
    clip = clip_of(protocol, real_files[0])
    protocol.departures(clip, features.title, 0, 0)
    features = features.to(device)
    real, static = features_of(real_files, protocol.clips and 2 * protocol.clips, clip, features, batch_size)
    wanted = min(protocol.clips or len(real), len(real))
    vectors, _ = features_of(made_files, protocol.clips, clip, features, batch_size)
    note = protocol.note(clip, features.title, wanted, len(vectors))
    found = distance_measurements(
        RealVideos(real, torch.full((len(real),), -1), wanted),
        {"static": [static[:wanted]], "made": [vectors]},
        features.title,
        lambda name: note if name == "made" else "",
    )
    details = {"made": made, "reference": reference, "clip": asdict(clip), "fingerprint": features.fingerprint(), "device": device}
    evaluation = Evaluation(found, asdict(protocol), details)
    write_report(Path(out) / "report.json", {"evaluations": [evaluation.plain()], "provenance": provenance(None)})
    sys.stdout.write(evaluation.text())
    return evaluation


def videos_in(folder: str) -> list[Path]:
    """Return the videos in a folder and below it, in a random, fixed order.

    Raises:
        ValueError: If there are fewer than two.
    """
    found = sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in VIDEOS and path.is_file())
    if len(found) < 2:
        raise ValueError(f"the folder {folder} must hold at least two videos, it has {len(found)}; they end in {', '.join(sorted(VIDEOS))}")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return [found[number] for number in order.tolist()]


def clip_of(protocol: Protocol, first: Path) -> Clip:
    """Return the protocol's clip size, with that of a reference video where the protocol has none."""
    video = probe(first)
    return Clip(protocol.frames, protocol.height or video.height, protocol.width or video.width, protocol.fps or video.fps)


def features_of(files: Sequence[Path], limit: int | None, clip: Clip, features: VideoFeatures, batch_size: int) -> tuple[Tensor, Tensor]:
    """Return features ``(N, D)`` of the first ``limit`` readable videos, or of all, and those of their first frames, repeated.

    Raises:
        ValueError: If fewer than two videos are readable.
    """
    device = next(features.parameters()).device
    moving, static, batch = [], [], []
    found = skipped = 0
    for number, file in enumerate(files, start=1):
        try:
            batch.append(read_clip(file, clip))
            found += 1
        except UnreadableVideo as error:
            skipped += 1
            log.warning("skipped: %s", error)
        done = number == len(files) or found == limit
        if batch and (done or len(batch) == batch_size):
            video = torch.stack(batch).to(device)
            moving.append(features(video).cpu())
            static.append(features(video[:, :, :1].expand_as(video)).cpu())
            batch.clear()
        if done:
            break
    if found < 2:
        raise ValueError(f"fewer than two of {len(files)} videos have {clip.frames} frames at {clip.fps:g} per second")
    if skipped:
        log.warning("%d of %d videos were skipped", skipped, len(files))
    return torch.cat(moving), torch.cat(static)


if __name__ == "__main__":
    run(compare)
