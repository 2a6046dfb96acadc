"""Clips to generate: in batches of equal lengths, shared by the processes, and without those that are there already."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from datamodules.decoding.reader import UnreadableVideo, display_size, is_image, probe, read_clip
from datamodules.loaders.distributed import rank_and_world_size
from datamodules.predict.prompt_files import Prefix, Request
from modules.batch import KeepsClips, Requests
from modules.geometry import Clip


class RequestedClips(LightningDataModule, ABC):
    """Clips to generate with ``predict``; children say which.

    Clips with equal numbers of frames and of prefix frames share batches. Clips that a callback such as ``WriteVideos`` finds already made
    are left out. After ``setup``, ``requests`` lists all clips.

    Args:
        clip: What a clip measures. Prefixes are read at its size and rate.
        batch_size: Clips per process and step.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """

    def __init__(self, clip: Clip, batch_size: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.clip, self.batch_size = clip, batch_size
        # With more processes than batches some have nothing to do, which Lightning takes for a mistake unless told.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    @abstractmethod
    def make_requests(self) -> list[Request]:
        """Every clip to make, in order."""

    def setup(self, stage: str) -> None:
        """Checks all prompts and reads every prefix once; raises ``ValueError`` with file and line of what is wrong."""
        self.requests = self.make_requests()
        self._prefixes: dict[Prefix, str] = {}
        cuts: list[_Cut] = []
        for request in self.requests:
            # Decoded again when its turn comes: a second decoding is cheaper than holding all prefixes in memory.
            if request.prefix is not None and request.prefix not in self._prefixes:
                prefix = self._read_prefix(request)
                self._prefixes[request.prefix] = hashlib.sha256(prefix.numpy().tobytes()).hexdigest()
                cuts.append(_Cut(f"{request.prefix.path} ({request.place})", *display_size(request.prefix.path), self.clip))
        _tell_of(cuts)

    def predict_dataloader(self) -> _Share:
        """Batches of ``Requests``; rank ``r`` of ``n`` takes the batches ``r, r + n, ...``."""
        keepers = [callback for callback in getattr(self.trainer, "callbacks", ()) if isinstance(callback, KeepsClips)]
        missing = [one for one in self.requests if not any(keeper.has_clip(one.name, self._asked(one)) for keeper in keepers)]
        if len(missing) < len(self.requests):
            rank_zero_info(f"{len(self.requests) - len(missing)} of {len(self.requests)} clips are there already and are kept")
        groups: dict[tuple[int, int], list[Request]] = {}
        for request in missing:
            groups.setdefault((request.frames, request.prefix_frames), []).append(request)
        size = self.batch_size
        batches = [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]
        return _Share(batches, self._load)

    def _load(self, batch: list[Request]) -> Requests:
        requests = Requests(
            condition=[request.condition for request in batch],
            then=[list(request.then) for request in batch],
            seed=[request.seed for request in batch],
            name=[request.name for request in batch],
            asked=[self._asked(request) for request in batch],
            frames=batch[0].frames,
            height=self.clip.height,
            width=self.clip.width,
            fps=self.clip.fps,
        )
        if batch[0].prefix is not None:
            requests["prefix"] = torch.stack([self._read_prefix(request) for request in batch])
        return requests

    def _asked(self, request: Request) -> dict[str, Any]:
        """All that decides what a clip becomes, besides the model and how that samples."""
        asked = {
            "condition": request.condition,
            "seed": request.seed,
            "frames": request.frames,
            "height": self.clip.height,
            "width": self.clip.width,
            "fps": self.clip.fps,
            "prefix_frames": request.prefix_frames,
        }
        if request.then:
            asked["then"] = [list(change) for change in request.then]
        if request.prefix is not None:
            asked |= {"prefix": str(request.prefix.path), "prefix_sha256": self._prefixes[request.prefix]}
        return asked

    def _read_prefix(self, request: Request) -> Tensor:
        """``(3, P, H, W)`` uint8."""
        assert request.prefix is not None
        clip = replace(self.clip, frames=request.prefix.frames)
        try:
            return read_clip(request.prefix.path, clip, _second(request.prefix, clip))
        except UnreadableVideo as error:
            raise ValueError(f"{request.place}: {error}") from error


def _second(prefix: Prefix, clip: Clip) -> float:
    """When the first frame of a prefix is shown."""
    if prefix.start != "last":
        return prefix.start
    if is_image(prefix.path):
        return 0.0
    about = probe(prefix.path)
    last = about.seconds - 1 / about.fps if about.fps else about.seconds
    return max(0.0, last - (clip.frames - 1) / clip.fps)


@dataclass(frozen=True)
class _Cut:
    """How a prefix of ``height x width`` pixels becomes one of the clip's."""

    name: str
    height: int
    width: int
    clip: Clip

    @property
    def lost(self) -> float:
        """Share of the picture that is cut off."""
        ratios = self.height / self.width, self.clip.height / self.clip.width
        return 1 - min(ratios) / max(ratios)


def _tell_of(cuts: list[_Cut]) -> None:
    """Say how much of prefixes of another shape is not used."""
    cut = [one for one in cuts if round(one.lost * 100) > 0]
    if cut:
        worst = max(cut, key=lambda one: one.lost)
        rank_zero_info(
            f"{len(cut)} of {len(cuts)} prefixes have another shape than clips of {worst.clip.height} x {worst.clip.width} pixels; they "
            f"are scaled to cover them and cut in the middle, most of all {worst.name}, which has "
            f"{worst.height} x {worst.width} pixels and loses {worst.lost:.0%} of its picture"
        )


class _Share:
    """The batches of this process. No ``DataLoader``, as Lightning would share that out once more."""

    def __init__(self, batches: list[list[Request]], load: Callable[[list[Request]], Requests]) -> None:
        self._batches, self._load = batches, load

    def __len__(self) -> int:
        return len(self._own())

    def __iter__(self) -> Iterator[Requests]:
        return map(self._load, self._own())

    def _own(self) -> list[list[Request]]:
        rank, world = rank_and_world_size()
        return self._batches[rank::world]
