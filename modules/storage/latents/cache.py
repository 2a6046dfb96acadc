"""Latents of clips in a folder, read one by one, each checked against its hash.

A cache is a folder with ``cache.json``, the header, and shards ``<split>/<number>.safetensors``. A shard has ``latents``
``(n, d, t, h, w)``, ``labels`` and ``indices`` ``(n,)`` int64, ``captions`` (their JSON list as bytes), ``digests`` ``(n, 32)`` (SHA-256
of every latent) and ``seal`` (SHA-256 of everything except the latents); its metadata have the hash of the header. Opening a cache
reads ``cache.json`` only, and opening a shard reads its index only. Damage and shards of other caches are detected on use.
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
from modules.storage.latents.header import FORMAT, CacheHeader

HEADER = "cache.json"
INDEX = ("labels", "indices", "captions", "digests", "seal")
ENCODE_AGAIN = "remove it and rerun the command that made the cache"

# Shards that a reader keeps open.
OPEN_SHARDS = 256


class CachedClip(NamedTuple):
    """Latent ``(d, t, h, w)`` of a clip as stored, with the clip's label, caption and index."""

    latent: Tensor
    label: int
    caption: str
    index: int

    def sha256(self) -> str:
        """Return the hash of all fields, in hexadecimal."""
        digest = hashlib.sha256(json.dumps(self[1:]).encode())
        digest.update(raw(self.latent))
        return digest.hexdigest()


class LatentCache:
    """Folder of latents, open for reading. Latents stay on the disk.

    Attributes:
        folder: The folder.
        header: Its header.

    Args:
        folder: Folder that ``callbacks.WriteLatents`` filled.

    Raises:
        ValueError: If there is no cache in the folder, or shards are missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.header = read_header(self.folder)
        self._open = lru_cache(OPEN_SHARDS)(self._open_shard)
        shards, existing = list(self.header.shards()), shard_files(self.folder)
        missing = [shard.name for shard in shards if shard.name not in existing]
        if missing:
            raise ValueError(
                f"{folder} is incomplete: {len(missing)} of {len(shards)} shards are missing, such as {missing[0]}; "
                "rerun the command that makes it, which continues where it stopped"
            )

    def __reduce__(self) -> tuple[type[LatentCache], tuple[Path]]:
        # Open files cannot be pickled; other processes open them again.
        return LatentCache, (self.folder,)

    def length(self, split: str) -> int:
        """Return the number of clips of a split; 0 if the data set has no such split."""
        return self.header.splits.get(self.header.same.get(split, split), 0)

    def clip(self, split: str, number: int) -> CachedClip:
        """Return clip ``number`` of a split; raises ``ValueError`` if its shard is damaged or belongs to another cache."""
        shard, row = divmod(number, self.header.clips_per_shard)
        return self._open(f"{self.header.same.get(split, split)}/{shard:06d}").clip(row)

    def _open_shard(self, name: str) -> _OpenShard:
        return _OpenShard(shard_path(self.folder, name), metadata_of(name, self.header.sha256))


class _OpenShard:
    """File of latents whose index has been read and checked."""

    def __init__(self, path: Path, expected_metadata: dict[str, str]) -> None:
        self.path = path
        try:
            self._file = safe_open(path, framework="pt")
            metadata = self._file.metadata() or {}
            *index, seal = map(self._file.get_tensor, INDEX)
            self._latents = self._file.get_slice("latents")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged or not a file of latents: {error}; {ENCODE_AGAIN}") from error
        if seal_of(metadata, self._latents.get_shape(), index) != raw(seal):
            raise ValueError(f"{path} is damaged: its index does not match its checksum; {ENCODE_AGAIN}")
        if metadata != expected_metadata:
            raise ValueError(f"{path} belongs to another cache, or {HEADER} beside it was changed; {ENCODE_AGAIN}")
        self._labels, self._indices, captions, self._digests = index
        self._captions: list[str] = json.loads(raw(captions))

    def clip(self, row: int) -> CachedClip:
        latent = self._latents[row]
        if digest_of(latent) != raw(self._digests[row]):
            raise ValueError(f"{self.path} is damaged: latent {row} does not match its checksum; {ENCODE_AGAIN}")
        return CachedClip(latent, int(self._labels[row]), self._captions[row], int(self._indices[row]))


def metadata_of(name: str, cache: str) -> dict[str, str]:
    """Return the metadata of shard ``name`` of the cache whose header has the hash ``cache``.

    It is a single entry, because safetensors writes several in any order and equal clips must give equal bytes.
    """
    return {FORMAT: f"{name} of {cache}"}


def read_header(folder: Path) -> CacheHeader:
    """Read the header of a cache; raises ``ValueError`` if there is none."""
    path = header_path(folder)
    if not path.is_file():
        raise ValueError(f"there is no cache of latents in {folder}, which has no {HEADER} (relative paths start at {Path.cwd()})")
    try:
        return CacheHeader.from_json(path.read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or not the header of a cache of latents: {error}") from error


def header_path(folder: Path) -> Path:
    return folder / HEADER


def shard_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def shard_files(folder: Path) -> set[str]:
    """Return the names of the shards that exist."""
    return {f"{path.parent.name}/{path.stem}" for path in folder.glob("*/*.safetensors") if not path.name.startswith(".")}
