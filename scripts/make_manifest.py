"""Conversion of a folder of animations, videos and images to a dataset: MP4 and PNG files, and a manifest with file names as captions.

``python -m scripts.make_manifest emoji --out data/manifest.jsonl --short_side 128`` converts everything below ``emoji``,
such as ``emoji/animals/cat_face.webp`` to ``data/clips/animals/cat_face.mp4`` with the caption "cat face". Still images
go to ``data/pictures``. Run again, the command resumes after an interruption and converts new files.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.jsonl import read_jsonl
from scripts.cli import run
from scripts.convert_animations import SOURCES, ConvertedFile, Recipe, convert
from scripts.progress import parallel_map

log = logging.getLogger(__name__)


def make(folder: Path, out: Path, recipe: Recipe, captions: dict[str, str], workers: int = 1, time_limit: float = 600.0) -> dict[Path, str]:
    """Convert files that are not in the manifest yet, and add a line for each.

    Args:
        folder: Folder of the files, at any depth.
        out: The manifest; files are written to "clips" and "pictures" beside it.
        recipe: Format of the files.
        captions: Captions by name or path of a source; by default captions derive from the file names.
        workers: Processes.
        time_limit: Seconds that decoding a video may take.

    Returns:
        The reasons of the files that could not be converted.

    Raises:
        ValueError: If there is nothing to convert, two files have the same target, or the manifest was made with another recipe.
    """
    sources = find_sources(folder, out)
    known = _known(out, recipe)
    missing = [source for source in sources if source.relative_to(folder).as_posix() not in known]
    log.info("%d files to convert; %d are converted already", len(missing), len(sources) - len(missing))
    task = partial(_convert, target_names(folder, sources), out.parent, recipe, time_limit)
    broken: dict[Path, str] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as manifest, closing(parallel_map(task, missing, workers)) as outcomes:
        for source, outcome in outcomes:
            if isinstance(outcome, str):
                broken[source] = outcome
                log.warning("left out: %s", outcome)
                continue
            line = _line(outcome, out.parent, source.relative_to(folder).as_posix(), captions, recipe)
            manifest.write(f"{json.dumps(line, ensure_ascii=False)}\n")
            manifest.flush()
    return broken


def find_sources(folder: Path, out: Path) -> list[Path]:
    """Return all convertible files, sorted by path, except hidden folders and the output folders beside ``out``.

    Raises:
        ValueError: If there are none.
    """
    outputs = [(out.parent / name).resolve() for name in ("clips", "pictures")]
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(root, name).resolve() not in outputs)
        found += [Path(root, name) for name in sorted(names) if not name.startswith(".") and Path(name).suffix.lower() in SOURCES]
    if not found:
        raise ValueError(f"there is nothing to convert in {folder}; files end in {', '.join(sorted(SOURCES))}")
    return found


def target_names(folder: Path, sources: list[Path]) -> dict[Path, str]:
    """Return the target of every file without folder and suffix; the source's suffix is appended where names collide.

    Raises:
        ValueError: If two targets still collide.
    """
    targets = {source: source.relative_to(folder).with_suffix("").as_posix() for source in sources}
    counts = Counter(target.lower() for target in targets.values())
    targets = {source: target if counts[target.lower()] == 1 else f"{target}_{source.suffix[1:]}" for source, target in targets.items()}
    taken: dict[str, Path] = {}
    for source, target in targets.items():
        if (other := taken.setdefault(target.lower(), source)) != source:
            raise ValueError(f"{other} and {source} would both become {target}: rename one")
    return targets


def caption_of(name: str) -> str:
    """Return the caption of a file name without suffix: "cat_face-01" becomes "cat face 01"."""
    return re.sub(r"[\s_-]+", " ", name).strip()


def _convert(names: dict[Path, str], root: Path, recipe: Recipe, time_limit: float, source: Path) -> ConvertedFile | str:
    name = names[source]
    try:
        return convert(source, root / "clips" / f"{name}.mp4", root / "pictures" / f"{name}.png", recipe, time_limit)
    except ValueError as error:
        return str(error)


def _line(converted: ConvertedFile, root: Path, source: str, captions: dict[str, str], recipe: Recipe) -> dict[str, Any]:
    name = Path(source).stem
    caption = next((captions[key] for key in (source, name) if key in captions), caption_of(name))
    kind = {"kind": "video", "end": round(converted.seconds, 6)} if converted.seconds else {"kind": "picture"}
    size = {"height": converted.height, "width": converted.width}
    return {
        "path": converted.path.relative_to(root).as_posix(),
        "caption": caption,
        **kind,
        **size,
        "source": source,
        "recipe": asdict(recipe),
    }


def _known(out: Path, recipe: Recipe) -> set[str]:
    """Return the sources in a manifest, after removing an incomplete last line."""
    if not out.exists():
        return set()
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(out, len(whole))
    known = set()
    for location, values in read_jsonl(out) if whole else ():
        if values.get("recipe") != asdict(recipe):
            raise ValueError(
                f"{location} was made with {values.get('recipe')}, not with {asdict(recipe)}: give another --out, or remove it"
            )
        known.add(values["source"])
    return known


def read_captions(path: Path | None) -> dict[str, str]:
    """Return captions by name from a JSON object.

    Raises:
        ValueError: If the file is missing or invalid.
    """
    if path is None:
        return {}
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f'{path} must hold an object like {{"name": "a text"}}')
    return texts


def make_manifest(
    folder: Path,
    *,
    out: Path,
    fps: float = Recipe.fps,
    short_side: int | None = None,
    background: str = Recipe.background,
    captions: Path | None = None,
    workers: int = os.cpu_count() or 1,
    time_limit: float = 600.0,
) -> None:
    """Convert a folder of animations, videos and images to MP4 and PNG files with a manifest.

    Args:
        folder: Folder of the files, at any depth.
        out: The manifest (.jsonl); files are written to "clips" and "pictures" beside it.
        fps: Frames per second of the videos.
        short_side: Pixels of the shorter side; by default the size of the file.
        background: Colour behind transparent parts: a name or #rrggbb.
        captions: A JSON object of captions by file name; by default captions derive from the file names.
        workers: Processes.
        time_limit: Seconds that decoding a video may take.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    recipe = Recipe(fps, short_side, background)
    broken = make(folder, out, recipe, read_captions(captions), workers, time_limit)
    log.info("%s lists %d files; %d could not be converted", out, len(_known(out, recipe)), len(broken))


if __name__ == "__main__":
    run(make_manifest)
