"""Feature vectors of videos, between which distances are measured."""

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

# Buffer of a batch norm that does not affect its output.
COUNTER = "num_batches_tracked"


class VideoFeatures(nn.Module, ABC):
    """Fixed network from videos to vectors; its distance is named after it.

    Attributes:
        num_features: Length of a vector.
        title: Name of the Fréchet distance between these vectors. Only that of I3D may be called FVD.
        min_frames: Minimum number of frames.
    """

    num_features: int
    title: str
    min_frames: int = 1

    def forward(self, video: Tensor) -> Tensor:
        """Return vectors ``(B, num_features)`` float64 of videos ``(B, 3, T, H, W)`` uint8.

        Raises:
            TypeError: If the video is not uint8.
            ValueError: If it is too short, or the network does not return finite vectors of ``num_features``.
        """
        if video.dtype != torch.uint8:
            raise TypeError(f"features are computed from uint8 videos, as files hold them; got {video.dtype}")
        if video.shape[2] < self.min_frames:
            raise ValueError(f"{self.title} needs at least {self.min_frames} frames, got {video.shape[2]}")
        with torch.no_grad(), torch.autocast(video.device.type, enabled=False):
            vectors = self.vectors(video)
        if vectors.shape != (len(video), self.num_features) or not vectors.isfinite().all():
            raise ValueError(f"{self.title}: expected finite vectors of {self.num_features} numbers per video, got {tuple(vectors.shape)}")
        return vectors.double()

    @abstractmethod
    def fingerprint(self) -> str:
        """Identify the network including its weights."""

    @abstractmethod
    def vectors(self, video: Tensor) -> Tensor:
        """Vectors of uint8 videos."""

    def train(self, mode: bool = True) -> VideoFeatures:
        """Stay in evaluation mode."""
        return super().train(False)


def load_script(path: str | Path) -> tuple[torch.jit.ScriptModule, str]:
    """Return the network of a TorchScript file and its SHA-256. Loading TorchScript runs no pickled code.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not TorchScript.
    """
    digest = file_hash(path)
    try:
        with warnings.catch_warnings():
            # Deprecated, but the format of the published file.
            warnings.filterwarnings("ignore", message=".*torch.jit.load.*deprecated")
            return torch.jit.load(str(path), map_location="cpu").eval(), digest
    except RuntimeError as error:
        raise ValueError(f"{path} is not a TorchScript file") from error


def fill(network: nn.Module, weights: Mapping[str, Any], path: str | Path, what: str) -> None:
    """Load weights into a network; ``num_batches_tracked`` may be missing.

    Args:
        network: The network.
        weights: Content of a file.
        path: The file, for error messages.
        what: Name of the network, for error messages.

    Raises:
        ValueError: If a weight is missing, of another shape, or unknown.
    """
    wanted = {name: tuple(values.shape) for name, values in network.state_dict().items() if not name.endswith(COUNTER)}
    found = {name: tuple(values.shape) for name, values in weights.items() if isinstance(values, Tensor) and not name.endswith(COUNTER)}
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise ValueError(f"{path} is not {what}: {name} must be {shape}, got {found.get(name, 'nothing')}")
    if unknown := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{path} is not {what}: it also has {unknown[0]}")
    network.load_state_dict(dict(weights), strict=False)


def weights_hash(network: nn.Module) -> str:
    """Return the SHA-256 of names and values of a network's weights."""
    digest = hashlib.sha256()
    for name, values in network.state_dict().items():
        digest.update(f"{name} {tuple(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
