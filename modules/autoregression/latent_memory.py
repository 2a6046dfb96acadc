"""Latents of clips that were encoded before, kept in memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class InMemoryLatentCache:
    """Remembers the continuous latents of a data set whose clips never change (no augmentation), so each is encoded once per run.

    Continuous latents and not bits are kept, because flipped bits need the residual to be quantised again.

    Args:
        clips: How many clips to remember; 0 encodes every batch anew.
    """

    def __init__(self, clips: int = 0) -> None:
        self.clips = clips
        self._latents: dict[int, Tensor] = {}

    def fetch(self, index: Tensor, video: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Latents ``(B, d, t, h, w)`` of a batch, encoding only the clips not met before.

        Args:
            index: ``(B,)`` number of every clip in its data set.
            video: ``(B, 3, T, H, W)`` of the same clips.
            encode: Video to latent.
        """
        numbers = index.tolist()
        unknown = [place for place, number in enumerate(numbers) if number not in self._latents]
        fresh = dict(zip((numbers[place] for place in unknown), encode(video[unknown]), strict=True)) if unknown else {}
        latents = torch.stack([fresh[number] if number in fresh else self._latents[number] for number in numbers])
        for number, latent in fresh.items():
            if len(self._latents) < self.clips:
                self._latents[number] = latent.clone()
        return latents
