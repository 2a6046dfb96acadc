"""Clips that VBench scores, under the file names it expects (VBench 1.0 and VBench-I2V, as in its repository).

VBench itself runs in a separate environment, over the folder that ``predict`` fills. It looks files up by their exact names and ignores
missing ones.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.jsonl import value_of
from datamodules.predict.base import RequestedClips
from datamodules.predict.prompt_files import Prefix, Request
from modules.geometry import Clip

# Dimensions that are scored on the clips of another one; every other dimension has a folder of its own name.
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

# Clips per prompt; the second is for temporal_flickering, where VBench scores only the clips that pass its static filter.
CLIPS, FLICKERING_CLIPS = 5, 25

# Distance between the first seeds of two values of ``seed``; larger than the number of clips.
SEED_STRIDE = 100_000

# A file name has at most 255 bytes, including a number, a suffix and the mark of an unfinished file.
MAX_PROMPT_BYTES = 235


class Entry(NamedTuple):
    """Prompt of an information file: its index, its location for messages, and all values of its object."""

    number: int
    location: str
    prompt: str
    dimensions: list[str]
    values: dict[str, Any]


class _InfoPrompts(RequestedClips):
    """Clips for the prompts of an information file of VBench.

    Args:
        info: Path of the information file, from VBench's repository.
        clip: Size of a clip; VBench is meant for clips of less than five seconds.
        batch_size: Clips per process and step.
        seed: Clip ``i`` of prompt ``n`` has the seed ``100000 seed + 25 n + i``.
        dimensions: Generate only the clips for these dimensions, such as ``[scene, dynamic_degree]``; all if not given.

    Raises:
        ValueError: If a number is too small.
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
        if seed < 0:
            raise ValueError(f"the seed must not be negative, got {seed}")
        self.info, self.seed, self.dimensions = info, seed, dimensions

    @abstractmethod
    def stems_of(self, entry: Entry) -> Iterator[tuple[str, int]]:
        """Yield the names, without a number, of the clips for an entry, each with the number of clips."""

    def prefix_of(self, entry: Entry) -> Prefix | None:
        """Return the frames that the clips for an entry continue."""
        return None

    def make_requests(self) -> list[Request]:
        """Return all requests; repeated prompts are generated once. Raises ``ValueError`` if there are none."""
        requests: dict[str, Request] = {}
        for entry in read_info(self.info):
            for stem, count in self.stems_of(entry):
                prefix = self.prefix_of(entry)
                for number in range(count):
                    name, seed = f"{stem}-{number}", self.seed * SEED_STRIDE + FLICKERING_CLIPS * entry.number + number
                    requests.setdefault(name, Request(entry.prompt, seed, name, self.clip.frames, prefix, entry.location))
        if not requests:
            raise ValueError("no prompt belongs to one of these dimensions")
        return list(requests.values())


class VBenchPrompts(_InfoPrompts):
    """Clips of VBench 1.0: ``<folder>/<prompt>-<i>``, 5 per prompt, and 25 per prompt of temporal_flickering.

    Seeds do not depend on the selected dimensions.

    Args:
        info: Path of ``VBench_full_info.json``, from VBench's repository.
        settings: Further settings of every prompt source of VBench: clip, batch_size, seed, dimensions.

    Raises:
        ValueError: If a number is too small or a dimension does not exist.
    """

    def __init__(self, info: str, **settings: Any) -> None:
        super().__init__(info, **settings)
        self.folders = {folder_of(dimension, "dimensions") for dimension in self.dimensions or FOLDERS}

    def stems_of(self, entry: Entry) -> Iterator[tuple[str, int]]:
        for folder in dict.fromkeys(folder_of(dimension, entry.location) for dimension in entry.dimensions):
            if folder in self.folders:
                yield f"{folder}/{entry.prompt}", FLICKERING_CLIPS if folder == "temporal_flickering" else CLIPS


class VBenchImagePrompts(_InfoPrompts):
    """Clips of VBench-I2V: ``<prompt>-<i>``, 5 per prompt, each of which continues the prompt's image.

    Prompts with camera motion use the image of the prompt before the words ", camera ...".

    Args:
        info: Path of ``vbench2_i2v_full_info.json``, from VBench's repository.
        images: Folder of the images, such as ``crop/7-4``; images with another aspect ratio than the clips are cropped, with a message.
        settings: Further settings of every prompt source of VBench: clip, batch_size, seed, dimensions.

    Raises:
        ValueError: If a number is too small.
    """

    def __init__(self, info: str, images: str, **settings: Any) -> None:
        super().__init__(info, **settings)
        self.images = Path(images).expanduser()

    def stems_of(self, entry: Entry) -> Iterator[tuple[str, int]]:
        if self.dimensions is None or set(self.dimensions) & set(entry.dimensions):
            yield entry.prompt, CLIPS

    def prefix_of(self, entry: Entry) -> Prefix:
        return Prefix(self.images / image_of(entry), 1, 0.0)


def read_info(path: str) -> Iterator[Entry]:
    """Yield the prompts of an information file of VBench; raises ``ValueError`` if it is not one."""
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path} (relative paths start at {Path.cwd()}); get it from VBench's repository")
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} is not an information file of VBench, which is a list of objects like {{...}}")
    for number, row in enumerate(rows):
        location = f"{path}[{number}]"
        prompt = value_of(row, "prompt_en", str, location, "a text")
        dimensions = value_of(row, "dimension", list, location, "a list of names")
        if not prompt or not dimensions:
            raise ValueError(f'{location}: "prompt_en" or "dimension" is missing')
        if "/" in prompt or "\0" in prompt or len(prompt.encode()) > MAX_PROMPT_BYTES:
            raise ValueError(f"{location}: the prompt cannot be a file name: {prompt[:60]!r}")
        yield Entry(number, location, prompt, dimensions, row)


def folder_of(dimension: str, location: str) -> str:
    """Return the folder of the clips on which a dimension is scored."""
    folder = SHARED.get(dimension, dimension)
    if folder not in FOLDERS:
        raise ValueError(f"{location}: VBench 1.0 has no dimension {dimension!r}; it has {', '.join(sorted(FOLDERS | SHARED.keys()))}")
    return folder


def image_of(entry: Entry) -> str:
    """Return the file name of the image that a prompt continues."""
    image = value_of(entry.values, "image_name", str, entry.location, "a file name")
    scene, camera, _ = entry.prompt.rpartition(", camera ")
    if image is None and not camera:
        raise ValueError(f'{entry.location}: "image_name" is missing')
    return image or f"{scene}.jpg"
