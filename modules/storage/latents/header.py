"""What a cache of latents shall hold: settled before anything is encoded, so that a call that was interrupted can go on."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, Self

from modules.geometry import Clip

FORMAT = "latents 1"

# Bits of a tokenizer are signs, and rounding moves some numbers across zero: see docs/data.md.
Numbers = Literal["float32", "float16"]
BYTES = {"float32": 4, "float16": 2}

# Size of a shard, in bytes and in clips: what an interruption may cost, and what is in memory while it is encoded.
SHARD_BYTES = 2**26
SHARD_CLIPS = 1024

# Label, number and hash of a clip; quotes, comma and space around its caption.
CLIP_INDEX_BYTES = 8 + 8 + 32 + 4
SHARD_INDEX_BYTES = 800


class Shard(NamedTuple):
    """Clips ``first`` to ``first + count - 1`` of a split, which share a file."""

    name: str
    split: str
    first: int
    count: int


def bytes_of_latent(latent: tuple[int, ...], numbers: Numbers) -> int:
    return math.prod(latent) * BYTES[numbers]


def clips_of_shard(latent: tuple[int, ...], numbers: Numbers) -> int:
    """How many clips shall share a file; a cache keeps to what it was begun with."""
    return max(1, min(SHARD_CLIPS, SHARD_BYTES // bytes_of_latent(latent, numbers)))


@dataclass(frozen=True)
class CachePlan:
    """Everything but the latents themselves, their labels and captions.

    Args:
        tokenizer: A SHA-256 of each half of the tokenizer, its architecture included: ``{"encoder": ..., "decoder": ...}``.
        source: The file the tokenizer's weights came from, for people.
        preprocessing: What decides which pixels a clip has, as plain values.
        clip: What a clip measures.
        latent: ``(d, t, h, w)`` of a clip's latent.
        temporal_factor: Video frames per latent frame.
        numbers: How latents are stored.
        splits: Clips of every split that is stored.
        same: Splits that are not stored, as they are the same as another one.
        class_names: Names of the classes by class id.
        captions: Captions for training, or a sample that covers their words.
        clips_per_shard: Clips that share a file.
    """

    tokenizer: dict[str, str]
    source: str
    preprocessing: dict[str, Any]
    clip: Clip
    latent: tuple[int, int, int, int]
    temporal_factor: int
    numbers: Numbers
    splits: dict[str, int]
    same: dict[str, str]
    class_names: list[str]
    captions: list[str]
    clips_per_shard: int

    def shards(self) -> Iterator[Shard]:
        """All shards, split by split."""
        for split, clips in self.splits.items():
            for number, first in enumerate(range(0, clips, self.clips_per_shard)):
                yield Shard(f"{split}/{number:06d}", split, first, min(self.clips_per_shard, clips - first))

    def bytes_of(self, shards: list[Shard]) -> int:
        """About how large the files of these shards are: exact but for captions, of which the mean length is taken."""
        words = sum(len(json.dumps(caption)) - 2 for caption in self.captions) / max(1, len(self.captions))
        per_clip = bytes_of_latent(self.latent, self.numbers) + CLIP_INDEX_BYTES + words
        return round(sum(shard.count for shard in shards) * per_clip + len(shards) * SHARD_INDEX_BYTES)

    def check_same(self, other: Self, folder: object) -> None:
        """Raises ``ValueError`` if ``other`` has other content; what differs is named for both."""
        if self.tokenizer != other.tokenizer:
            raise ValueError(f"{folder} has latents of tokenizer {self.name_of_tokenizer}, not of {other.name_of_tokenizer}: {ANOTHER}")
        for name in (field.name for field in fields(self) if field.name not in ("source", "clips_per_shard")):
            if differing := difference(getattr(self, name), getattr(other, name), name):
                raise ValueError(f"{folder} was begun with {differing[0]}, not {differing[1]}: {ANOTHER}")

    def check_tokenizer(self, found: Mapping[str, str], source: str | None, place: object) -> None:
        """Raises ``ValueError`` unless the latents are of the tokenizer with these hashes; a half that it lacks is not compared.

        Args:
            found: Hashes like those of ``tokenizer``.
            source: The file its weights came from.
            place: Where the latents are.
        """
        if not found or any(self.tokenizer.get(half) != sha256 for half, sha256 in found.items()):
            theirs = name_of(found, source)
            raise ValueError(f"{place} has latents of tokenizer {self.name_of_tokenizer}, but the model has tokenizer {theirs}")

    @property
    def name_of_tokenizer(self) -> str:
        return name_of(self.tokenizer, self.source)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises ``ValueError`` or ``KeyError`` or ``TypeError`` if the text is none."""
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        return cls(**{**values, "clip": Clip(**values["clip"]), "latent": tuple(values["latent"])})

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()


ANOTHER = "give another folder, or remove that one"


def name_of(tokenizer: Mapping[str, str], source: str | None) -> str:
    """A tokenizer in a message: the first digits of its hashes and where it came from."""
    hashes = ", ".join(f"{half} {sha256[:12]}" for half, sha256 in sorted(tokenizer.items()))
    return f"{hashes} ({source})" if tokenizer else "none: give --init_from"


def difference(mine: Any, theirs: Any, path: str) -> tuple[str, str] | None:
    """The first place where two plain values differ, as a text for each."""
    if isinstance(mine, Clip) and isinstance(theirs, Clip):
        return difference(asdict(mine), asdict(theirs), path)
    if isinstance(mine, dict) and isinstance(theirs, dict):
        found = (difference(mine.get(key), theirs.get(key), f"{path}.{key}") for key in sorted(mine.keys() | theirs.keys()))
        return next(filter(None, found), None)
    if isinstance(mine, list) and isinstance(theirs, list) and mine != theirs:
        return f"{len(mine)} {path}", f"{len(theirs)}" if len(mine) != len(theirs) else "these"
    return None if mine == theirs else (f"{path} {mine}", str(theirs))
