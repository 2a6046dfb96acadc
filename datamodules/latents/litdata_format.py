"""Latents in LitData's format: chunks that are read sequentially, from a folder or from object storage.

A stream is a folder or URL with the part ``plan``, which has the header of the cache that it was made from, and one part per stored
split. LitData is imported only here, on demand.
"""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any, NamedTuple

from modules.storage.latents import CachedClip, CacheHeader, LatentCache

HEADER = "plan"


def litdata() -> Any:
    """Import LitData; raises ``ValueError`` if it is not installed."""
    # The buffers are copied into batches and never written to.
    warnings.filterwarnings("ignore", message="The given buffer is not writable", module="litdata")
    # Otherwise LitData queries a server for newer versions whenever a stream is opened.
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    try:
        return importlib.import_module("litdata")
    except ImportError as error:
        raise ValueError(f"streams of latents need another package ({error}): python -m pip install -e '.[stream]'") from error


def open_stream(folder: str, part: str, **settings: Any) -> Any:
    """Open one part of a stream as LitData's ``StreamingDataset``; raises ``ValueError`` if it does not exist."""
    try:
        return litdata().StreamingDataset(f"{folder}/{part}", **settings)
    except Exception as error:  # the client of every object storage has its own exceptions
        raise ValueError(
            f"no complete stream of latents in {folder} ({first_line(error)}): use python -m scripts.stream_latents"
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_header(folder: str) -> CacheHeader:
    """Read the header of a stream; raises ``ValueError`` if there is none."""
    return CacheHeader.from_json(open_stream(folder, HEADER)[0]["plan"])


class ReadClip(NamedTuple):
    """Callable that reads clips of a cache as items of a stream, by number; LitData runs it in worker processes."""

    cache: LatentCache
    split: str

    def __call__(self, number: int) -> dict[str, Any]:
        clip = self.cache.clip(self.split, number)
        return {**clip._asdict(), "sha256": clip.sha256()}


class CheckClip(NamedTuple):
    """Callable that checks an item of a stream against its hash and keeps its first latent frames."""

    part: str
    frames: int

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        clip = CachedClip(*(item[name] for name in CachedClip._fields))
        if clip.sha256() != item["sha256"]:
            raise ValueError(f"{self.part} is damaged: clip {clip.index} does not match its checksum; write the stream again")
        return {**clip._asdict(), "latent": clip.latent[:, : self.frames]}
