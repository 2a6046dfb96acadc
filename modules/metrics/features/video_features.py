"""Vectors that stand for videos: what a Fréchet distance is measured between."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modules.storage.checksums import file_hash

# Batches that a batch norm has seen.
COUNTER = "num_batches_tracked"


class VideoFeatures(nn.Module, ABC):
    """A fixed network from videos to vectors; its distance is named after it.

    Attributes:
        num_features: Length of a vector.
        title: What the Fréchet distance between these vectors is called. Only I3D's may be called FVD.
        min_frames: Frames that a video must have at least.
    """

    num_features: int
    title: str
    min_frames: int = 1

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` uint8 to ``(B, num_features)`` float64, exact sums of which need no further care.

        Raises:
            TypeError: If the video is not uint8.
            ValueError: If it is too short, or the network gives something else than finite vectors of the length it promised.
        """
        if video.dtype != torch.uint8:
            raise TypeError(f"features are taken of uint8 videos, so that files give the same number; got {video.dtype}")
        if video.shape[2] < self.min_frames:
            raise ValueError(f"{self.title} needs at least {self.min_frames} frames, got {video.shape[2]}")
        with torch.no_grad(), torch.autocast(video.device.type, enabled=False):
            vectors = self.vectors(video)
        if vectors.shape != (len(video), self.num_features) or not vectors.isfinite().all():
            raise ValueError(f"{self.title}: expected finite vectors of {self.num_features} numbers per video, got {tuple(vectors.shape)}")
        return vectors.double()

    @abstractmethod
    def fingerprint(self) -> str:
        """Says which network this is, weights included; keeps results of different ones apart."""

    @abstractmethod
    def vectors(self, video: Tensor) -> Tensor:
        """The vectors of uint8 videos."""

    def train(self, mode: bool = True) -> VideoFeatures:
        """Stay in evaluation mode, whatever the model that is measured does."""
        return super().train(False)


def load_script(path: str | Path) -> tuple[torch.jit.ScriptModule, str]:
    """A TorchScript file, which can hold nothing but TorchScript, and its sha256.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is none.
    """
    digest = file_hash(path)
    try:
        with warnings.catch_warnings():
            # Deprecated, and still the format of the file that the field uses.
            warnings.filterwarnings("ignore", message=".*torch.jit.load.*deprecated")
            return torch.jit.load(str(path), map_location="cpu").eval(), digest
    except RuntimeError as error:
        raise ValueError(f"{path} is no TorchScript file") from error


def fill(network: nn.Module, weights: Mapping[str, Any], path: str | Path, what: str) -> None:
    """Give a network its weights; counters of batches, which nobody needs, may be missing.

    Args:
        network: The network.
        weights: Content of a file.
        path: The file, for errors.
        what: What the network is called in errors.

    Raises:
        ValueError: If a weight is missing, of another shape, or unknown.
    """
    wanted = {name: tuple(values.shape) for name, values in network.state_dict().items() if not name.endswith(COUNTER)}
    found = {name: tuple(values.shape) for name, values in weights.items() if isinstance(values, Tensor) and not name.endswith(COUNTER)}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise ValueError(f"{path} is no {what}: {name} must be {shape}, got {found.get(name, 'nothing')}")
    if strangers := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{path} is no {what}: it also holds {strangers[0]}")
    network.load_state_dict(dict(weights), strict=False)


def weights_hash(network: nn.Module) -> str:
    """sha256 of the names and values of a network's weights."""
    digest = hashlib.sha256()
    for name, values in network.state_dict().items():
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
