"""Clips as latents from a folder."""

from __future__ import annotations

from functools import cached_property

from torch.utils.data import Dataset

from datamodules.latents.base import LatentSource, latent_frames
from modules.geometry import Clip
from modules.storage.latents import CacheHeader, LatentCache


class CachedLatents(LatentSource):
    """Latents from a folder that ``callbacks.WriteLatents`` filled, in the order that the encoded clips would have.

    See :class:`datamodules.latents.base.LatentSource`. Resuming is exact, as for the clips themselves.
    """

    @property
    def header(self) -> CacheHeader:
        return self._cache.header

    def dataset(self, split: str, clip: Clip | None = None) -> LatentClips:
        """Return the latents of "train", "val" or "test"."""
        return LatentClips(self._cache, split, latent_frames(self.header, clip or self.clip, self.folder))

    @cached_property
    def _cache(self) -> LatentCache:
        return LatentCache(self.folder)


class LatentClips(Dataset):
    """One split of a cache.

    Args:
        cache: The cache.
        split: "train", "val" or "test".
        frames: Latent frames of a clip, counted from its start.
    """

    def __init__(self, cache: LatentCache, split: str, frames: int) -> None:
        self.cache, self.split, self.frames = cache, split, frames

    def __len__(self) -> int:
        return self.cache.length(self.split)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}")
        clip = self.cache.clip(self.split, index)
        return {**clip._asdict(), "latent": clip.latent[:, : self.frames]}
