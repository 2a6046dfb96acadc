"""Clips as latents that a tokenizer made once."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property
from typing import NoReturn

from torch.utils.data import Dataset

from datamodules.base import ClipDataModule
from modules.geometry import Clip
from modules.latents import CachePlan, LatentCache


class CachedLatents(ClipDataModule):
    """Batches of latents from a cache, in place of the clips it was made of: the same clips in the same order.

    Splits, classes and captions are those of the data set that was encoded. Clips may be shorter than in the cache: as the tokenizer is
    causal, the first latent frames of a clip are the latents of its first frames.

    Args:
        clip: What a clip measures: size and rate as in the cache, and at most as many frames.
        folder: Folder that ``callbacks.WriteLatents`` filled.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        folder: str,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(clip, batch_size=batch_size, workers=workers, seed=seed)
        self.folder = folder

    def setup(self, stage: str) -> None:
        """Opens the cache; raises ``ValueError`` if it is missing, incomplete, damaged or of other clips."""
        latent_frames(self.plan, self.clip, self.folder)

    @property
    def plan(self) -> CachePlan:
        """What the cache holds."""
        return self._cache.plan

    def check_tokenizer(self, found: dict[str, str], source: str | None) -> None:
        """Raises ``ValueError`` if the latents are not of the tokenizer with these hashes, whose weights came from ``source``."""
        self.plan.check_tokenizer(found, source, self.folder)

    def dataset(self, split: str) -> LatentClips:
        """The latents of "train", "val" or "test"."""
        return LatentClips(self._cache, split, latent_frames(self.plan, self.clip, self.folder))

    def predict_dataloader(self) -> NoReturn:
        """Raises ``ValueError``."""
        raise ValueError(f"the clips in {self.folder} are encoded already")

    @property
    def class_names(self) -> list[str]:
        return self.plan.class_names

    @property
    def captions(self) -> list[str]:
        return self.plan.captions

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
            raise IndexError(f"there are the clips 0..{len(self) - 1}, got {index}")
        clip = self.cache.clip(self.split, index)
        return {**clip._asdict(), "latent": clip.latent[:, : self.frames]}


def latent_frames(plan: CachePlan, clip: Clip, place: str) -> int:
    """Latent frames of a clip that is cut from those of a cache.

    Args:
        plan: What the cache holds.
        clip: What a clip shall measure.
        place: The cache, for the error.

    Raises:
        ValueError: If the cache's clips are shorter, or others; both are named.
    """
    factor, extra = plan.temporal_factor, clip.frames - 1
    if replace(clip, frames=plan.clip.frames) != plan.clip or clip.frames > plan.clip.frames or extra % factor:
        wanted, found = (", ".join(f"{name} {value:g}" for name, value in asdict(one).items()) for one in (clip, plan.clip))
        raise ValueError(f"{place} has latents of clips with {found}; asked for {wanted} (1 + {factor} * n frames, at most those)")
    return 1 + extra // factor
