"""The clips that VBench asks for, under the names by which it looks for them (its repository, VBench 1.0 and VBench-I2V).

VBench itself runs in an environment of its own, over the folder that ``predict`` fills. It looks files up by their exact names and does not
count what it does not find.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.jsonl import value_of
from datamodules.predict.base import RequestedClips
from datamodules.predict.prompt_files import Prefix, Request
from modules.geometry import Clip

# Dimensions that are judged by the clips of another one; the other dimensions have a folder of their own name.
SHARED = {
    "aesthetic_quality": "overall_consistency",
    "background_consistency": "scene",
    "dynamic_degree": "subject_consistency",
    "imaging_quality": "overall_consistency",
    "motion_smoothness": "subject_consistency",
}
FOLDERS = {
    *SHARED.values(),
    *("appearance_style", "color", "human_action", "multiple_objects", "object_class"),
    *("spatial_relationship", "temporal_flickering", "temporal_style"),
}

# Clips per prompt. Of the second VBench keeps those that its static filter takes for still.
CLIPS, STILL_CLIPS = 5, 25

# Seeds between one seed of the command line and the next: more than there are clips.
SEEDS = 100_000

# A file name has at most 255 bytes; a number, the suffix and what marks an unfinished file take the rest.
LONGEST = 235


class Entry(NamedTuple):
    """A prompt of an information file: its number in the file, its place for errors, and all that the file says about it."""

    number: int
    place: str
    prompt: str
    dimensions: list[str]
    values: dict[str, Any]


class VBenchPrompts(RequestedClips):
    """The clips of VBench 1.0: ``<folder>/<prompt>-<i>``, 5 per prompt, and 25 per prompt of temporal_flickering.

    Clip ``i`` of prompt ``n`` of the file has the seed ``100000 seed + 25 n + i``, whichever dimensions are asked for.

    Args:
        info: Path of ``VBench_full_info.json``, which lies in VBench's repository.
        clip: What a clip measures; VBench 1.0 is for clips of less than five seconds.
        batch_size: Clips per process and step.
        seed: See above.
        dimensions: Only the clips by which these are judged, such as ``[scene, dynamic_degree]``; those of all if not given.

    Raises:
        ValueError: If a number is too small or there is no such dimension.
    """

    def __init__(
        self,
        info: str,
        *,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        batch_size: int = 8,
        seed: int = 0,
        dimensions: list[str] | None = None,
    ) -> None:
        super().__init__(clip, batch_size)
        check_seed(seed)
        self.info, self.seed = info, seed
        self.folders = {folder_of(dimension, "dimensions") for dimension in dimensions or FOLDERS}

    def make_requests(self) -> list[Request]:
        def clips_of(entry: Entry) -> Iterator[tuple[str, int]]:
            for folder in dict.fromkeys(folder_of(dimension, entry.place) for dimension in entry.dimensions):
                if folder in self.folders:
                    yield f"{folder}/{entry.prompt}", STILL_CLIPS if folder == "temporal_flickering" else CLIPS

        def request(entry: Entry, name: str, seed: int) -> Request:
            return Request(entry.prompt, seed, name, self.clip.frames, None, entry.place)

        return requests_of(read_info(self.info), self.seed, clips_of, request)


class VBenchImagePrompts(RequestedClips):
    """The clips of VBench-I2V: ``<prompt>-<i>``, 5 per prompt, each of which continues the prompt's picture.

    Prompts that move the camera have the picture of the prompt before the words ", camera ...". Seeds are those of ``VBenchPrompts``.

    Args:
        info: Path of ``vbench2_i2v_full_info.json``, which lies in VBench's repository.
        images: Folder of the pictures, such as ``crop/7-4``; those of another shape than the clips are cut, and the run says so.
        clip: What a clip measures.
        batch_size: Clips per process and step.
        seed: See above.
        dimensions: Only the clips that the file gives to one of these; all if not given.

    Raises:
        ValueError: If a number is too small.
    """

    def __init__(
        self,
        info: str,
        images: str,
        *,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        batch_size: int = 8,
        seed: int = 0,
        dimensions: list[str] | None = None,
    ) -> None:
        super().__init__(clip, batch_size)
        check_seed(seed)
        self.info, self.images, self.seed, self.dimensions = info, Path(images).expanduser(), seed, dimensions

    def make_requests(self) -> list[Request]:
        def clips_of(entry: Entry) -> Iterator[tuple[str, int]]:
            if self.dimensions is None or set(self.dimensions) & set(entry.dimensions):
                yield entry.prompt, CLIPS

        def request(entry: Entry, name: str, seed: int) -> Request:
            return Request(entry.prompt, seed, name, self.clip.frames, Prefix(self.images / image_of(entry), 1, 0.0), entry.place)

        return requests_of(read_info(self.info), self.seed, clips_of, request)


def requests_of(
    entries: Iterable[Entry],
    seed: int,
    clips_of: Callable[[Entry], Iterator[tuple[str, int]]],
    request: Callable[[Entry, str, int], Request],
) -> list[Request]:
    """Requests for all entries; a prompt that comes twice is made once.

    Args:
        entries: The file's.
        seed: That of the command line.
        clips_of: Names without a number that an entry asks for, each with how many clips.
        request: A request of that name and seed for an entry.

    Raises:
        ValueError: If nothing is asked for.
    """
    found: dict[str, Request] = {}
    for entry in entries:
        for stem, count in clips_of(entry):
            for number in range(count):
                name = f"{stem}-{number}"
                found.setdefault(name, request(entry, name, seed * SEEDS + STILL_CLIPS * entry.number + number))
    if not found:
        raise ValueError("no prompt belongs to one of these dimensions")
    return list(found.values())


def read_info(path: str) -> Iterator[Entry]:
    """The prompts of an information file of VBench.

    Raises:
        ValueError: If it is none.
    """
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path} (relative paths start at {Path.cwd()}); it lies in VBench's repository")
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is no information file of VBench, which is a list of objects like {{...}}")
    for number, row in enumerate(rows):
        place = f"{path}[{number}]"
        prompt = value_of(row, "prompt_en", str, place, "a text")
        dimensions = value_of(row, "dimension", list, place, "a list of names")
        if not prompt or not dimensions:
            raise ValueError(f'{place}: "prompt_en" or "dimension" is missing')
        if "/" in prompt or "\0" in prompt or len(prompt.encode()) > LONGEST:
            raise ValueError(f"{place}: the prompt cannot be the name of a file: {prompt[:60]!r}")
        yield Entry(number, place, prompt, dimensions, row)


def folder_of(dimension: str, place: str) -> str:
    """Where the clips lie by which a dimension is judged."""
    folder = SHARED.get(dimension, dimension)
    if folder not in FOLDERS:
        raise ValueError(f"{place}: VBench 1.0 has no dimension {dimension!r}; it has {', '.join(sorted(FOLDERS | SHARED.keys()))}")
    return folder


def image_of(entry: Entry) -> str:
    """File name of the picture that a prompt continues."""
    image = value_of(entry.values, "image_name", str, entry.place, "a file name")
    scene, camera, _ = entry.prompt.rpartition(", camera ")
    if image is None and not camera:
        raise ValueError(f'{entry.place}: "image_name" is missing')
    return image or f"{scene}.jpg"


def check_seed(seed: int) -> None:
    """Raises ``ValueError`` for a negative seed."""
    if seed < 0:
        raise ValueError(f"the seed must not be negative, got {seed}")
