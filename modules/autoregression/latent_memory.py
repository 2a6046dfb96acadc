"""In-memory cache of the latents of clips that were already encoded."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class InMemoryLatentCache:
    """Cache of continuous latents for a data set whose clips never change (no augmentation); each clip is encoded once per run.

    Continuous latents are stored instead of bits, because after bit flips the residual must be quantised again.

    Args:
        clips: Maximum number of cached clips; 0 disables the cache.
    """

    def __init__(self, clips: int = 0) -> None:
        self.clips = clips
        self._latents: dict[int, Tensor] = {}

    def fetch(self, index: Tensor, video: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the latents ``(B, d, t, h, w)`` of a batch, encoding only clips that are not cached.

        Args:
            index: ``(B,)`` number of every clip in its data set.
            video: ``(B, 3, T, H, W)`` of the same clips.
            encode: Function from video to latent.
        """
        numbers = index.tolist()
        unknown = [place for place, number in enumerate(numbers) if number not in self._latents]
        fresh = dict(zip((numbers[place] for place in unknown), encode(video[unknown]), strict=True)) if unknown else {}
        latents = torch.stack([fresh[number] if number in fresh else self._latents[number] for number in numbers])
        for number, latent in fresh.items():
            if len(self._latents) < self.clips:
                self._latents[number] = latent.clone()
        return latents
