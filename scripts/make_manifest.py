"""Turns a folder of animations, videos and pictures into a data set: MP4 and PNG files of one kind, and a manifest with names as captions.

``python -m scripts.make_manifest emoji --out data/manifest.jsonl --short_side 128`` converts everything in ``emoji`` and the folders in
it, such as ``emoji/animals/cat_face.webp`` to ``data/clips/animals/cat_face.mp4`` with the caption "cat face". Pictures that do not move
go to ``data/pictures``. The same command again goes on where it was interrupted, and converts what is new.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.clips.unreadable import read_guarded
from datamodules.decoding.frames import UnreadableVideo
from datamodules.jsonl import read_jsonl
from scripts.convert_animations import SOURCES, Made, Recipe, convert
from scripts.progress import in_threads

log = logging.getLogger(__name__)


def make(folder: Path, out: Path, recipe: Recipe, captions: dict[str, str], workers: int = 1, time_limit: float = 600.0) -> dict[Path, str]:
    """Converts what is not in a manifest yet, and adds a line for every file.

    Args:
        folder: Where the files are, at any depth.
        out: The manifest; files are written to "clips" and "pictures" beside it.
        recipe: How files are made.
        captions: Texts by name or path of a source; the others are called what their names say.
        workers: Files to convert at once.
        time_limit: Seconds that one may take.

    Returns:
        Why which files could not be converted.

    Raises:
        ValueError: If there is nothing to convert, two files would be written to one place, or the manifest was made otherwise.
    """
    sources = find_sources(folder, out)
    known = _known(out, recipe)
    missing = [source for source in sources if source.relative_to(folder).as_posix() not in known]
    log.info("%d files to convert; %d are converted already", len(missing), len(sources) - len(missing))
    task = partial(_convert, targets(folder, sources), out.parent, recipe, time_limit)
    broken: dict[Path, str] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "a", encoding="utf-8") as manifest, closing(in_threads(task, missing, workers, log)) as outcomes:
        for source, outcome in outcomes:
            if isinstance(outcome, str):
                broken[source] = outcome
                log.warning("left out: %s", outcome)
                continue
            written = source.relative_to(folder).as_posix()
            line = _line(outcome, out.parent, written, captions, recipe)
            manifest.write(f"{json.dumps(line, ensure_ascii=False)}\n")
            manifest.flush()
    return broken


def find_sources(folder: Path, out: Path) -> list[Path]:
    """All files that can be converted, by path; those in hidden folders and those written beside ``out`` are left alone.

    Raises:
        ValueError: If there are none.
    """
    ours = [(out.parent / name).resolve() for name in ("clips", "pictures")]
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(root, name).resolve() not in ours)
        found += [Path(root, name) for name in sorted(names) if not name.startswith(".") and Path(name).suffix.lower() in SOURCES]
    if not found:
        raise ValueError(f"there is nothing to convert in {folder}; files end in {', '.join(sorted(SOURCES))}")
    return found


def targets(folder: Path, sources: list[Path]) -> dict[Path, str]:
    """Where every file goes, without folder and suffix: by its name, with its suffix where others have the same one.

    Raises:
        ValueError: If two would go to the same place.
    """
    places = {source: source.relative_to(folder).with_suffix("").as_posix() for source in sources}
    counts = Counter(place.lower() for place in places.values())
    places = {source: place if counts[place.lower()] == 1 else f"{place}_{source.suffix[1:]}" for source, place in places.items()}
    taken: dict[str, Path] = {}
    for source, place in places.items():
        if (other := taken.setdefault(place.lower(), source)) != source:
            raise ValueError(f"{other} and {source} would both become {place}: rename one")
    return places


def caption_of(name: str) -> str:
    """What a name says, without its suffix: "cat_face-01" is "cat face 01"."""
    return re.sub(r"[\s_-]+", " ", name).strip()


def _convert(places: dict[Path, str], beside: Path, recipe: Recipe, time_limit: float, source: Path) -> Made | str:
    video, picture = beside / "clips" / f"{places[source]}.mp4", beside / "pictures" / f"{places[source]}.png"
    try:
        return read_guarded(time_limit, convert, source, video, picture, recipe)
    except UnreadableVideo as error:
        return str(error)


def _line(made: Made, beside: Path, written: str, captions: dict[str, str], recipe: Recipe) -> dict[str, Any]:
    name = Path(written).stem
    caption = next((captions[key] for key in (written, name) if key in captions), caption_of(name))
    kind = {"kind": "video", "end": round(made.seconds, 6)} if made.seconds else {"kind": "picture"}
    size = {"height": made.height, "width": made.width}
    return {
        "path": made.path.relative_to(beside).as_posix(),
        "caption": caption,
        **kind,
        **size,
        "source": written,
        "recipe": asdict(recipe),
    }


def _known(out: Path, recipe: Recipe) -> set[str]:
    """The sources in a manifest, from which a line that was interrupted is removed."""
    if not out.exists():
        return set()
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(out, len(whole))
    known = set()
    for place, values in read_jsonl(out) if whole else ():
        if values.get("recipe") != asdict(recipe):
            raise ValueError(f"{place} was made with {values.get('recipe')}, not with {asdict(recipe)}: give another --out, or remove it")
        known.add(values["source"])
    return known


def read_captions(path: Path | None) -> dict[str, str]:
    """Texts by name from a JSON object.

    Raises:
        ValueError: If the file is missing or anything else.
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


def main(arguments: list[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        if not given.folder.is_dir():
            raise ValueError(f"there is no folder {given.folder}")
        recipe = Recipe(given.fps, given.short_side, given.background)
        broken = make(given.folder, given.out, recipe, read_captions(given.captions), given.workers, given.time_limit)
        log.info("%s lists %d files; %d could not be converted", given.out, len(_known(given.out, recipe)), len(broken))
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Turns a folder of animations, videos and pictures into MP4 and PNG files with a manifest."
    )
    parser.add_argument("folder", type=Path, help=f"with files that end in {', '.join(sorted(SOURCES))}")
    parser.add_argument("--out", type=Path, required=True, help="the manifest (.jsonl); files are written to clips and pictures beside it")
    parser.add_argument("--fps", type=float, default=Recipe.fps, help="frames per second of the videos")
    parser.add_argument("--short_side", type=int, default=None, help="pixels of the shorter side; the files' own size if not given")
    parser.add_argument("--background", default=Recipe.background, help="what lies behind transparent parts: a name or #rrggbb")
    parser.add_argument("--captions", type=Path, default=None, help="a JSON object of texts by file name; others are called by their names")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="files to convert at once")
    parser.add_argument("--time_limit", type=float, default=600.0, help="seconds that one file may take")
    return parser


if __name__ == "__main__":
    main()
