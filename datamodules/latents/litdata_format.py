"""Latents in LitData's format: chunks that are read one after the other, from a folder or from object storage.

A stream is a folder or URL with ``plan``, the plan of the cache it was made of, and one part for every split that is stored. LitData is
imported here only, and when it is needed.
"""

from __future__ import annotations

import importlib
import os
import warnings
from typing import Any, NamedTuple

from modules.storage.latents import CachedClip, CachePlan, LatentCache

PLAN = "plan"


def litdata() -> Any:
    """The library.

    Raises:
        ValueError: If it is not installed.
    """
    # What it reads is copied into batches and never written to.
    warnings.filterwarnings("ignore", message="The given buffer is not writable", module="litdata")
    # Otherwise it asks a server for newer versions of itself whenever a stream is opened.
    os.environ.setdefault("LITDATA_DISABLE_VERSION_CHECK", "1")
    try:
        return importlib.import_module("litdata")
    except ImportError as error:
        raise ValueError(f"streams of latents need another package ({error}): python -m pip install -e '.[stream]'") from error


def open_stream(folder: str, part: str, **settings: Any) -> Any:
    """One part of a stream as LitData's ``StreamingDataset``.

    Raises:
        ValueError: If there is none.
    """
    try:
        return litdata().StreamingDataset(f"{folder}/{part}", **settings)
    except Exception as error:  # every object storage has a client with errors of its own
        raise ValueError(
            f"no stream of latents in {folder}, or it is not whole ({first_line(error)}): use scripts.stream_latents"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, without what may follow."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def read_plan(folder: str) -> CachePlan:
    """What a stream holds; raises ``ValueError`` if there is none."""
    return CachePlan.from_json(open_stream(folder, PLAN)[0]["plan"])


class ReadClip(NamedTuple):
    """A clip of a cache as an item of a stream, by its number; what LitData calls in processes of its own."""

    cache: LatentCache
    split: str

    def __call__(self, number: int) -> dict[str, Any]:
        clip = self.cache.clip(self.split, number)
        return {**clip._asdict(), "sha256": clip.sha256()}


class CheckClip(NamedTuple):
    """An item of a stream as a data set's item, its first latent frames, if it is what was written."""

    place: str
    frames: int

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        clip = CachedClip(*(item[name] for name in CachedClip._fields))
        if clip.sha256() != item["sha256"]:
            raise ValueError(f"{self.place} is damaged: clip {clip.index} is not the one that was written; make the stream again")
        return {**clip._asdict(), "latent": clip.latent[:, : self.frames]}
