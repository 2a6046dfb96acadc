"""Vectors that stand for videos: what a Fréchet distance is measured between."""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

# Batches that a batch norm has seen.
COUNTER = "num_batches_tracked"


class VideoFeatures(nn.Module, ABC):
    """A fixed network from videos to vectors; its distance is named after it.

    Attributes:
        num_features: Length of a vector.
        title: What the Fréchet distance between these vectors is called. Only I3D's may be called FVD.
        fewest_frames: Frames that a video must have at least.
    """

    num_features: int
    title: str
    fewest_frames: int = 1

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` uint8 to ``(B, num_features)`` float64, exact sums of which need no further care.

        Raises:
            TypeError: If the video is not uint8.
            ValueError: If it is too short, or the network gives something else than finite vectors of the length it promised.
        """
        if video.dtype != torch.uint8:
            raise TypeError(f"features are taken of uint8 videos, so that files give the same number; got {video.dtype}")
        if video.shape[2] < self.fewest_frames:
            raise ValueError(f"{self.title} needs at least {self.fewest_frames} frames, got {video.shape[2]}")
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


class FrameFeatures(VideoFeatures):
    """Looks at pictures and at what changes between them: for networks that know pictures only.

    A vector holds, for every channel of every map that the network gives, the mean over time and places, then the mean of the absolute
    difference of neighbouring frames. Means alone do not see time: a frozen video has those of a moving one.

    Args:
        network: Called with pictures ``(N, 3, H, W)`` in [0, 1]; gives a map ``(N, C, h, w)``, a vector ``(N, C)``, or several of them.
        name: What the distance is named after.
        size: Pictures are resized to ``size x size`` pixels before; not at all if 0.
    """

    def __init__(self, network: nn.Module, name: str, size: int = 0) -> None:
        super().__init__()
        if size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        self.network, self.size = network.eval(), size
        self.title = f"Fréchet distance, features {name}"
        with torch.no_grad():
            probe = self.network(torch.zeros(1, 3, size or 64, size or 64))
        self.num_features = 2 * sum(found.shape[1] for found in _maps(probe))

    def fingerprint(self) -> str:
        return f"{self.title}, pictures of {self.size} pixels, weights {weights_hash(self.network)}"

    def vectors(self, video: Tensor) -> Tensor:
        pictures = rearrange(video, "b c t h w -> (b t) c h w").float() / 255.0
        if self.size:
            pictures = F.interpolate(pictures, size=(self.size, self.size), mode="bilinear", antialias=True)
        maps = [rearrange(found.flatten(2), "(b t) c p -> b t c p", b=len(video)).double() for found in _maps(self.network(pictures))]
        still = [found.mean(dim=(1, 3)) for found in maps]
        moving = [found.diff(dim=1).abs().mean(dim=(1, 3)) if found.shape[1] > 1 else torch.zeros_like(found[:, 0, :, 0]) for found in maps]
        return torch.cat(still + moving, dim=1)


class RandomFeatures(FrameFeatures):
    """Random convolutions, the same everywhere: needs no file, and its distance says so in its name.

    Three in four filters of the first layer do not see plain colour, which would drown all else, and roots are taken of the means, as
    a change in a weak channel counts too. Both were chosen by how well faults stand out (docs/evaluation.md).

    Args:
        seed: Seed of the weights.
        widths: Channels of the layers; each halves the picture.
    """

    def __init__(self, seed: int = 0, widths: Sequence[int] = (8, 16, 24)) -> None:
        super().__init__(_RandomNetwork(seed, widths), f"random convolutions (seed {seed}, {'-'.join(map(str, widths))})")

    def vectors(self, video: Tensor) -> Tensor:
        return super().vectors(video).sqrt()


class ScriptedFrameFeatures(FrameFeatures):
    """A TorchScript file of a picture network, for instance ``torch.jit.trace(network, picture).save(path)``.

    Args:
        path: The file; called with pictures in [0, 1], so that it has to normalise them itself.
        size: Side of the pictures that it wants, in pixels.
    """

    def __init__(self, path: str, size: int = 224) -> None:
        network, digest = load_script(path)
        super().__init__(network, f"{Path(path).stem} ({digest[:8]})", size)


class _RandomNetwork(nn.Module):
    """Convolutions with random weights, of which every layer's output is given."""

    def __init__(self, seed: int, widths: Sequence[int]) -> None:
        super().__init__()
        chance = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList()
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            layer = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, padding_mode="replicate")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            weight = torch.randn(layer.weight.shape, generator=chance) * (2 / (9 * inputs)) ** 0.5
            if not self.layers:
                weight[outputs // 4 :] -= weight[outputs // 4 :].mean(dim=(2, 3), keepdim=True)
            with torch.no_grad():
                layer.weight.copy_(weight)
            self.layers.append(layer)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        hidden, found = 2 * pictures - 1, []
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
            found.append(hidden)
        return found


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


def file_hash(path: str | Path) -> str:
    """sha256 of a file.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _maps(found: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """What a network gives, as maps ``(N, C, ...)``."""
    maps = [found] if isinstance(found, Tensor) else list(found)
    return [one[..., None] if one.ndim == 2 else one for one in maps]
