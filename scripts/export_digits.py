"""Writes moving digits as files: a folder that looks like anyone's own data, to try video reading, captions and prompts with.

``python -m scripts.export_digits FOLDER --clips 40 --frames 17`` makes ``NAME.mp4``, its first frame as ``NAME.png``, and
``manifest.jsonl`` with a line ``{"path": "NAME.mp4", "caption": "a red 3 moving left", "label": "3 left"}`` per clip.
"""

from __future__ import annotations

import argparse
import json
import logging
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image
from torch import Tensor

from datamodules.digits.moving_digits import MovingDigits
from modules.geometry import Clip

log = logging.getLogger(__name__)


def export(folder: Path, clips: int, clip: Clip, seed: int = 0) -> Path:
    """Writes the first training clips of ``MovingDigits``.

    Args:
        folder: Where to; made if missing.
        clips: Number of clips.
        clip: What a clip measures.
        seed: Seed of the clips.

    Returns:
        Path of the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = MovingDigits(clip, seed=seed, clips=clips)
    dataset = source.dataset("train")
    lines = []
    for index in range(clips):
        item = dataset[index]
        label = source.class_names[item["label"]]
        name = f"{index:04d}_{label.replace(' ', '_')}"
        write_mp4(folder / f"{name}.mp4", item["video"], clip.fps)
        Image.fromarray(item["video"][:, 0].permute(1, 2, 0).numpy()).save(folder / f"{name}.png")
        lines.append(json.dumps({"path": f"{name}.mp4", "caption": item["caption"], "label": label}))
    manifest = folder / "manifest.jsonl"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def write_mp4(path: Path, video: Tensor, fps: float) -> None:
    """Writes ``(3, T, H, W)`` uint8 as H.264 with full colour resolution, close to lossless."""
    _, _, height, width = video.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
        for frame in video.permute(1, 2, 3, 0).contiguous().numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes moving digits as mp4 files with a manifest.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=40, help="number of clips")
    parser.add_argument("--frames", type=int, default=17, help="frames per clip")
    parser.add_argument("--size", type=int, default=32, help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=0, help="seed of the clips")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    manifest = export(arguments.folder, arguments.clips, Clip(arguments.frames, arguments.size, arguments.size), arguments.seed)
    log.info("wrote %d clips, listed in %s", arguments.clips, manifest)


if __name__ == "__main__":
    main()
