"""What ``predict`` generates: requests in batches, shared by the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from lightning import LightningDataModule
from torch import Tensor

from datamodules.prompt_list import Defaults, Request, make_requests
from datamodules.reader import UnreadableVideo, read_clip
from datamodules.resumable import place
from modules.batch import Requests
from modules.geometry import Clip


class Prompts(LightningDataModule):
    """Clips to generate with ``predict``.

    Lines of a .txt file are conditions. Lines of a .jsonl file are ``{"condition": "a text or a class name"}`` with any of "seed",
    "frames", "name", "prefix" (a video or picture to continue from, relative to the file) and "prefix_frames", which overrule the
    arguments below. Clips with equal numbers of frames and of prefix frames share batches. After ``setup``, ``requests`` lists all clips.

    Args:
        prompts: Path of a .txt or .jsonl file, or a list of conditions.
        clip: What a clip measures. Prefixes are read at its size and rate.
        batch_size: Clips per process and step.
        seed: Clip ``n`` gets seed ``seed + n``. A prompt with a seed of its own counts on from that over its samples.
        samples: Clips per prompt.
        prefix: Video or picture from which every clip starts.
        prefix_frames: Number of frames to take from a prefix.

    Raises:
        ValueError: If a number is too small.
    """

    def __init__(
        self,
        prompts: str | list[str],
        *,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        batch_size: int = 8,
        seed: int = 0,
        samples: int = 1,
        prefix: str | None = None,
        prefix_frames: int = 1,
    ) -> None:
        super().__init__()
        if min(batch_size, samples, prefix_frames) < 1 or seed < 0:
            numbers = f"batch_size {batch_size}, samples {samples}, prefix_frames {prefix_frames} and seed {seed}"
            raise ValueError(f"batch_size, samples and prefix_frames must be at least 1 and seed 0, got {numbers}")
        self.prompts, self.clip, self.batch_size = prompts, clip, batch_size
        # With more processes than batches some have nothing to do, which Lightning takes for a mistake unless told.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.defaults = Defaults(clip.frames, seed, samples, prefix, prefix_frames)

    def setup(self, stage: str) -> None:
        """Checks all prompts and reads every prefix once; raises ``ValueError`` with file and line of what is wrong."""
        self.requests = make_requests(self.prompts, self.defaults)
        # Decoded again when its turn comes: a second decoding is cheaper than holding all prefixes in memory.
        for request in {(request.prefix, request.prefix_frames): request for request in reversed(self.requests)}.values():
            self._read_prefix(request)
        groups: dict[tuple[int, int], list[Request]] = {}
        for request in self.requests:
            groups.setdefault((request.frames, request.prefix_frames), []).append(request)
        size = self.batch_size
        self._batches = [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]

    def predict_dataloader(self) -> _Share:
        """Batches of ``Requests``; rank ``r`` of ``n`` takes the batches ``r, r + n, ...``."""
        return _Share(self._batches, self._load)

    def _load(self, batch: list[Request]) -> Requests:
        requests = Requests(
            condition=[request.condition for request in batch],
            seed=[request.seed for request in batch],
            name=[request.name for request in batch],
            frames=batch[0].frames,
            height=self.clip.height,
            width=self.clip.width,
            fps=self.clip.fps,
        )
        prefixes = [prefix for request in batch if (prefix := self._read_prefix(request)) is not None]
        if prefixes:
            requests["prefix"] = torch.stack(prefixes)
        return requests

    def _read_prefix(self, request: Request) -> Tensor | None:
        """``(3, P, H, W)`` uint8."""
        if request.prefix is None:
            return None
        try:
            return read_clip(request.prefix, replace(self.clip, frames=request.prefix_frames))
        except UnreadableVideo as error:
            raise ValueError(f"{request.place}: {error}") from error


class _Share:
    """The batches of this process. No ``DataLoader``, as Lightning would share that out once more."""

    def __init__(self, batches: list[list[Request]], load: Callable[[list[Request]], Requests]) -> None:
        self._batches, self._load = batches, load

    def __len__(self) -> int:
        return len(self._own())

    def __iter__(self) -> Iterator[Requests]:
        return map(self._load, self._own())

    def _own(self) -> list[list[Request]]:
        rank, world = place()
        return self._batches[rank::world]
