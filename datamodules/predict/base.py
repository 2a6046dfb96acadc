"""Base class of the data modules of clips to generate: batches of equal lengths, distributed over processes, without existing clips."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.clips.aspect_ratios import cropped_fraction
from datamodules.decoding.reader import UnreadableVideo, display_size, is_image, probe, read_clip
from datamodules.loaders.distributed import rank_and_world_size
from datamodules.predict.prompt_files import Prefix, Request
from modules.batch import KeepsClips, Requests
from modules.geometry import Clip


class RequestedClips(LightningDataModule, ABC):
    """Clips to generate with ``predict``; subclasses define which.

    Clips with equal numbers of frames and of prefix frames share batches. Clips that a callback such as ``WriteVideos`` already has are
    skipped. After ``setup``, ``requests`` lists all clips.

    Args:
        clip: Size of a clip. Prefixes are read at its size and rate.
        batch_size: Clips per process and step.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """

    def __init__(self, clip: Clip, batch_size: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.clip, self.batch_size = clip, batch_size
        # With more processes than batches some have no batch, which Lightning otherwise treats as an error.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @abstractmethod
    def make_requests(self) -> list[Request]:
        """Return every clip to generate, in order."""

    def setup(self, stage: str) -> None:
        """Check all prompts and read every prefix once; raises ``ValueError`` with file and line of an error."""
        self.requests = self.make_requests()
        self._prefixes: dict[Prefix, str] = {}
        cropped: dict[str, float] = {}
        for request in self.requests:
            # Decoded again for its batch: a second decoding is cheaper than keeping all prefixes in memory.
            if request.prefix is not None and request.prefix not in self._prefixes:
                prefix = self._read_prefix(request)
                self._prefixes[request.prefix] = hashlib.sha256(prefix.numpy().tobytes()).hexdigest()
                height, width = display_size(request.prefix.path)
                name = f"{request.prefix.path} ({request.location}), which has {height} x {width} pixels"
                cropped[name] = cropped_fraction(height, width, (self.clip.height, self.clip.width))
        self._log_cropping(cropped)

    def predict_dataloader(self) -> RankBatches:
        """Return batches of ``Requests``; rank ``r`` of ``n`` takes the batches ``r, r + n, ...``."""
        keepers = [callback for callback in getattr(self.trainer, "callbacks", ()) if isinstance(callback, KeepsClips)]
        missing = [one for one in self.requests if not any(keeper.has_clip(one.name, self._settings(one)) for keeper in keepers)]
        if len(missing) < len(self.requests):
            rank_zero_info(f"{len(self.requests) - len(missing)} of {len(self.requests)} clips exist already and are kept")
        groups: dict[tuple[int, int], list[Request]] = {}
        for request in missing:
            groups.setdefault((request.frames, request.prefix_frames), []).append(request)
        size = self.batch_size
        batches = [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]
        return RankBatches(batches, self._load)

    def _load(self, batch: list[Request]) -> Requests:
        requests = Requests(
            condition=[request.condition for request in batch],
            then=[list(request.then) for request in batch],
            seed=[request.seed for request in batch],
            name=[request.name for request in batch],
            asked=[self._settings(request) for request in batch],
            frames=batch[0].frames,
            height=self.clip.height,
            width=self.clip.width,
            fps=self.clip.fps,
        )
        if batch[0].prefix is not None:
            requests["prefix"] = torch.stack([self._read_prefix(request) for request in batch])
        return requests

    def _settings(self, request: Request) -> dict[str, Any]:
        """Return all settings that determine a clip, except the model and its sampling settings."""
        settings = {
            "condition": request.condition,
            "seed": request.seed,
            "frames": request.frames,
            "height": self.clip.height,
            "width": self.clip.width,
            "fps": self.clip.fps,
            "prefix_frames": request.prefix_frames,
        }
        if request.then:
            settings["then"] = [list(change) for change in request.then]
        if request.prefix is not None:
            settings |= {"prefix": str(request.prefix.path), "prefix_sha256": self._prefixes[request.prefix]}
        return settings

    def _read_prefix(self, request: Request) -> Tensor:
        """Read a prefix as ``(3, P, H, W)`` uint8."""
        assert request.prefix is not None
        clip = replace(self.clip, frames=request.prefix.frames)
        try:
            return read_clip(request.prefix.path, clip, _start_seconds(request.prefix, clip))
        except UnreadableVideo as error:
            raise ValueError(f"{request.location}: {error}") from error

    def _log_cropping(self, cropped: dict[str, float]) -> None:
        """Log how many prefixes have another aspect ratio, and the one that loses the largest fraction of its area."""
        changed = {name: fraction for name, fraction in cropped.items() if round(fraction * 100) > 0}
        if changed:
            name, fraction = max(changed.items(), key=lambda item: item[1])
            rank_zero_info(
                f"{len(changed)} of {len(cropped)} prefixes have another aspect ratio than clips of {self.clip.height} x "
                f"{self.clip.width} pixels; they are scaled to cover the clip and cropped in the middle, most of all {name} and loses "
                f"{fraction:.0%} of its image"
            )


def _start_seconds(prefix: Prefix, clip: Clip) -> float:
    """Return the time of a prefix's first frame."""
    if prefix.start != "last":
        return prefix.start
    if is_image(prefix.path):
        return 0.0
    about = probe(prefix.path)
    last = about.seconds - 1 / about.fps if about.fps else about.seconds
    return max(0.0, last - (clip.frames - 1) / clip.fps)


class RankBatches:
    """Batches of this process. Not a ``DataLoader``, which Lightning would distribute a second time."""

    def __init__(self, batches: list[list[Request]], load: Callable[[list[Request]], Requests]) -> None:
        self._batches, self._load = batches, load

    def __len__(self) -> int:
        return len(self._own())

    def __iter__(self) -> Iterator[Requests]:
        return map(self._load, self._own())

    def _own(self) -> list[list[Request]]:
        rank, world = rank_and_world_size()
        return self._batches[rank::world]
