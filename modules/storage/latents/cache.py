"""Latents of clips from a folder, read one by one, each checked against its hash.

A cache is a folder with ``cache.json``, the plan, and shards ``<split>/<number>.safetensors``. A shard has ``latents`` ``(n, d, t, h, w)``,
``labels`` and ``indices`` ``(n,)`` int64, ``captions`` (their JSON list as bytes), ``digests`` ``(n, 32)`` (a SHA-256 of every latent) and
``seal`` (one of everything but the latents); its metadata have the hash of the plan. So opening a cache reads ``cache.json`` only, opening
a shard its index only, and what is damaged, or comes from another cache, is refused when it is used.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from modules.storage.checksums import digest_of, raw, seal_of
from modules.storage.latents.header import FORMAT, CachePlan

PLAN = "cache.json"

# Shards that a reader keeps open.
OPEN_SHARDS = 256


class CachedClip(NamedTuple):
    """A clip without its video: ``latent`` ``(d, t, h, w)`` as stored, and what else its data set said of it."""

    latent: Tensor
    label: int
    caption: str
    index: int

    def sha256(self) -> str:
        """A hash of all of it."""
        whole = hashlib.sha256(json.dumps(self[1:]).encode())
        whole.update(raw(self.latent))
        return whole.hexdigest()


class LatentCache:
    """A folder of latents, open for reading. Latents stay on the disc.

    Attributes:
        folder: Where it is.
        plan: What it holds.

    Args:
        folder: Folder that ``callbacks.WriteLatents`` filled.

    Raises:
        ValueError: If there is no such folder, it is none of ours, or shards are missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.plan = read_plan(self.folder)
        self._open = lru_cache(OPEN_SHARDS)(self._open_shard)
        shards = list(self.plan.shards())
        there = shard_files(self.folder)
        missing = [shard.name for shard in shards if shard.name not in there]
        if missing:
            raise ValueError(
                f"{folder} is not complete: {len(missing)} of {len(shards)} shards are missing, such as {missing[0]}; "
                "the command that makes it goes on where it was"
            )

    def __reduce__(self) -> tuple[type[LatentCache], tuple[Path]]:
        # Open files cannot be copied; other processes open them again.
        return LatentCache, (self.folder,)

    def length(self, split: str) -> int:
        """Clips of a split; 0 if the data set has no such split."""
        return self.plan.splits.get(self.plan.same.get(split, split), 0)

    def clip(self, split: str, number: int) -> CachedClip:
        """Clip ``number`` of a split.

        Raises:
            ValueError: If the shard is damaged or of another cache; it is named.
        """
        shard, row = divmod(number, self.plan.clips_per_shard)
        return self._open(f"{self.plan.same.get(split, split)}/{shard:06d}").clip(row)

    def _open_shard(self, name: str) -> _OpenShard:
        return _OpenShard(shard_path(self.folder, name), name, self.plan.sha256)


class _OpenShard:
    """A file of latents whose index has been read and checked."""

    def __init__(self, path: Path, name: str, cache: str) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
            metadata = self._file.metadata() or {}
            self._labels, self._indices, captions, self._digests, seal = map(self._file.get_tensor, INDEX)
            self._latents = self._file.get_slice("latents")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or no file of latents: {error}; {AGAIN}") from error
        index = (self._labels, self._indices, captions, self._digests)
        if seal_of(metadata, self._latents.get_shape(), index) != raw(seal):
            raise ValueError(f"{path} is damaged: its index is not the one that was written; {AGAIN}")
        if metadata != metadata_of(name, cache):
            raise ValueError(f"{path} belongs to another cache, or {PLAN} beside it was changed; {AGAIN}")
        self._captions: list[str] = json.loads(raw(captions))

    def clip(self, row: int) -> CachedClip:
        latent = self._latents[row]
        if digest_of(latent) != raw(self._digests[row]):
            raise ValueError(f"{self.path} is damaged: latent {row} is not the one that was written; {AGAIN}")
        return CachedClip(latent, int(self._labels[row]), self._captions[row], int(self._indices[row]))


INDEX = ("labels", "indices", "captions", "digests", "seal")
AGAIN = "remove it, and the command that makes the cache makes it again"


def metadata_of(name: str, cache: str) -> dict[str, str]:
    """What shard ``name`` of the cache whose plan has the hash ``cache`` says about itself.

    In one entry: the library writes several in any order, and the same clips shall give the same bytes.
    """
    return {FORMAT: f"{name} of {cache}"}


def read_plan(folder: Path) -> CachePlan:
    """The plan of a cache.

    Raises:
        ValueError: If there is none.
    """
    path = plan_path(folder)
    if not path.is_file():
        raise ValueError(f"there is no cache of latents in {folder}, which has no {PLAN} (relative paths start at {Path.cwd()})")
    try:
        return CachePlan.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no plan of a cache of latents: {error}") from error


def plan_path(folder: Path) -> Path:
    return folder / PLAN


def shard_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def shard_files(folder: Path) -> set[str]:
    """Names of the shards that are there."""
    return {f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.safetensors") if not path.name.startswith(".")}
