"""Header of a cache of latents. It is fixed before anything is encoded, so that an interrupted run can continue."""

from __future__ import annotations

import hashlib
import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

import torch

from modules.geometry import Clip

FORMAT = "latents 1"

# The tokenizer's bits are signs of latents, and rounding to float16 moves some values across zero: see docs/data.md.
StorageDtype = Literal["float32", "float16"]

# Size of a shard, in bytes and in clips. An interruption loses at most one shard per process, which is held in memory while it is encoded.
SHARD_BYTES = 2**26
SHARD_CLIPS = 1024

# Bytes of a clip's label, index and hash, and of the quotes, comma and space around its caption.
CLIP_INDEX_BYTES = 8 + 8 + 32 + 4
SHARD_INDEX_BYTES = 800

# Key of ``dtype`` in the file.
DTYPE_KEY = "numbers"

USE_ANOTHER = "use another folder, or remove that one"


class Shard(NamedTuple):
    """Clips ``first`` to ``first + count - 1`` of a split, stored in one file."""

    name: str
    split: str
    first: int
    count: int


def bytes_of_latent(latent: tuple[int, ...], dtype: StorageDtype) -> int:
    """Return the bytes of a latent of this shape."""
    return math.prod(latent) * getattr(torch, dtype).itemsize


def clips_of_shard(latent: tuple[int, ...], dtype: StorageDtype) -> int:
    """Return the number of clips per shard of a new cache."""
    return max(1, min(SHARD_CLIPS, SHARD_BYTES // bytes_of_latent(latent, dtype)))


@dataclass(frozen=True)
class CacheHeader:
    """Everything about a cache except the latents, labels and captions of its clips.

    Args:
        tokenizer: SHA-256 of each half of the tokenizer, including its architecture: ``{"encoder": ..., "decoder": ...}``.
        source: File of the tokenizer's weights, for messages only.
        preprocessing: Settings that determine the pixels of a clip, as plain values.
        clip: Size of the encoded clips.
        latent: Shape ``(d, t, h, w)`` of a clip's latent.
        temporal_factor: Video frames per latent frame.
        dtype: Storage type of the latents.
        splits: Number of clips of every stored split.
        same: Splits that are not stored, as they are identical to another one.
        class_names: Class names by class id.
        captions: Training captions, or a sample with the same vocabulary.
        clips_per_shard: Clips per file.
    """

    tokenizer: dict[str, str]
    source: str
    preprocessing: dict[str, Any]
    clip: Clip
    latent: tuple[int, int, int, int]
    temporal_factor: int
    dtype: StorageDtype
    splits: dict[str, int]
    same: dict[str, str]
    class_names: list[str]
    captions: list[str]
    clips_per_shard: int

    def shards(self) -> Iterator[Shard]:
        """Yield all shards, split by split."""
        for split, clips in self.splits.items():
            for number, first in enumerate(range(0, clips, self.clips_per_shard)):
                yield Shard(f"{split}/{number:06d}", split, first, min(self.clips_per_shard, clips - first))

    def bytes_of(self, shards: list[Shard]) -> int:
        """Return the size of these shards' files: exact except for captions, which count with their mean length."""
        words = sum(len(json.dumps(caption)) - 2 for caption in self.captions) / max(1, len(self.captions))
        per_clip = bytes_of_latent(self.latent, self.dtype) + CLIP_INDEX_BYTES + words
        return round(sum(shard.count for shard in shards) * per_clip + len(shards) * SHARD_INDEX_BYTES)

    def check_same(self, other: Self, folder: object) -> None:
        """Raise ``ValueError`` with the first difference if ``other`` has other content than this header, which is that of ``folder``."""
        if self.tokenizer != other.tokenizer:
            raise ValueError(f"{folder} has latents of tokenizer {self.tokenizer_name}, not of {other.tokenizer_name}: {USE_ANOTHER}")
        mine, theirs = _content(self), _content(other)
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                before, now = (textwrap.shorten(str(values.get(name)), 80) for values in (mine, theirs))
                raise ValueError(f"{folder} was begun with {name} {before}, not {now}: {USE_ANOTHER}")

    def check_tokenizer(self, found: Mapping[str, str], source: str | None, folder: object) -> None:
        """Raise ``ValueError`` if the latents are of another tokenizer.

        Args:
            found: Hashes of the model's tokenizer, like those of ``tokenizer``; a half that is missing is not compared.
            source: File of its weights.
            folder: Location of the latents.
        """
        if not found or any(self.tokenizer.get(half) != sha256 for half, sha256 in found.items()):
            model = tokenizer_name(found, source)
            raise ValueError(f"{folder} has latents of tokenizer {self.tokenizer_name}, but the model has tokenizer {model}")

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer, for messages."""
        return tokenizer_name(self.tokenizer, self.source)

    def to_json(self) -> str:
        """Return the text of the file."""
        values = {DTYPE_KEY if name == "dtype" else name: value for name, value in asdict(self).items()}
        return json.dumps({"format": FORMAT, **values}, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text of a file; raises ``ValueError``, ``KeyError`` or ``TypeError`` if it is not a header."""
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError("unknown format")
        values |= {"clip": Clip(**values["clip"]), "latent": tuple(values["latent"]), "dtype": values.pop(DTYPE_KEY)}
        return cls(**values)

    @property
    def sha256(self) -> str:
        """Hash of the file's text, in hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def tokenizer_name(hashes: Mapping[str, str], source: str | None) -> str:
    """Return a tokenizer's name for messages: the first digits of its hashes and the file of its weights."""
    parts = ", ".join(f"{half} {sha256[:12]}" for half, sha256 in sorted(hashes.items()))
    return f"{parts} ({source})" if hashes else "none: give --init_from"


def _content(header: CacheHeader) -> dict[str, Any]:
    """Return the values that headers of the same content share, by dotted name."""
    values = {name: value for name, value in json.loads(header.to_json()).items() if name not in ("tokenizer", "source", "clips_per_shard")}
    nested = {f"{name}.{key}": each for name, value in values.items() if isinstance(value, dict) for key, each in value.items()}
    return {**nested, **{name: value for name, value in values.items() if not isinstance(value, dict)}}
