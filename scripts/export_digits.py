"""Moving digits as files: a folder like a user's own data, to try video reading, captions and prompts.

``python -m scripts.export_digits FOLDER --clips 40 --frames 17`` writes, per clip, ``NAME.mp4``, its first frame as ``NAME.png``, and
a line ``{"path": "NAME.mp4", "caption": "a red 3 moving left", "label": "3 left"}`` of ``manifest.jsonl``.
"""

from __future__ import annotations

import json
import logging
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image
from torch import Tensor

from datamodules.digits.moving_digits import MovingDigits
from modules.geometry import Clip
from scripts.cli import run

log = logging.getLogger(__name__)


def export_digits(folder: Path, *, clips: int = 40, frames: int = 17, size: int = 32, seed: int = 0) -> None:
    """Write moving digits as mp4 files with a manifest.

    Args:
        folder: Folder to write to; created if missing.
        clips: Number of clips.
        frames: Frames per clip.
        size: Height and width in pixels.
        seed: Seed of the clips.
    """
    manifest = export(folder, clips, Clip(frames, size, size), seed)
    log.info("wrote %d clips, listed in %s", clips, manifest)


def export(folder: Path, clips: int, clip: Clip, seed: int = 0) -> Path:
    """Write the first training clips of ``MovingDigits`` and return the path of their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = MovingDigits(clip, seed=seed, clips=clips)
    dataset, lines = digits.dataset("train"), []
    for index in range(clips):
        item = dataset[index]
        label = digits.class_names[item["label"]]
        name = f"{index:04d}_{label.replace(' ', '_')}"
        write_mp4(folder / f"{name}.mp4", item["video"], clip.fps)
        Image.fromarray(item["video"][:, 0].permute(1, 2, 0).numpy()).save(folder / f"{name}.png")
        lines.append(json.dumps({"path": f"{name}.mp4", "caption": item["caption"], "label": label}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def write_mp4(path: Path, video: Tensor, fps: float) -> None:
    """Write ``(3, T, H, W)`` uint8 as nearly lossless H.264 without chroma subsampling."""
    _, _, height, width = video.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for frame in video.permute(1, 2, 3, 0).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    run(export_digits)
