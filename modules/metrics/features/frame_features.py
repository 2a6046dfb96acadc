"""Video features from image networks, pooled over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.metrics.features.video_features import VideoFeatures, load_script, weights_hash


class FrameFeatures(VideoFeatures):
    """Features of frames and of their changes, from an image network.

    A vector has, for every channel of every map of the network, the mean over time and positions, then the mean absolute difference of
    neighbouring frames. Means alone are blind to time: a frozen video has those of a moving one.

    Args:
        network: Maps images ``(N, 3, H, W)`` in [0, 1] to a map ``(N, C, h, w)``, a vector ``(N, C)``, or several of them.
        name: Name of the features in the name of the distance.
        size: Images are resized to ``size x size`` pixels; 0 for no resizing.
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
        return f"{self.title}, images of {self.size} pixels, weights {weights_hash(self.network)}"

    def vectors(self, video: Tensor) -> Tensor:
        images = rearrange(video, "b c t h w -> (b t) c h w").float() / 255.0
        if self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        maps = [rearrange(found.flatten(2), "(b t) c p -> b t c p", b=len(video)).double() for found in _maps(self.network(images))]
        still = [found.mean(dim=(1, 3)) for found in maps]
        moving = [found.diff(dim=1).abs().mean(dim=(1, 3)) if found.shape[1] > 1 else torch.zeros_like(found[:, 0, :, 0]) for found in maps]
        return torch.cat(still + moving, dim=1)


class RandomFeatures(FrameFeatures):
    """Random convolutions with fixed weights: needs no file; the name of the distance says that they are random.

    Three in four filters of the first layer are insensitive to plain colour, which would dominate, and square roots are taken of the means
    so that changes in weak channels count. Our decision, by how well faults are detected (docs/evaluation.md).

    Args:
        seed: Seed of the weights.
        widths: Channels of the layers; each halves the resolution.
    """

    def __init__(self, seed: int = 0, widths: Sequence[int] = (8, 16, 24)) -> None:
        super().__init__(_RandomNetwork(seed, widths), f"random convolutions (seed {seed}, {'-'.join(map(str, widths))})")

    def vectors(self, video: Tensor) -> Tensor:
        return super().vectors(video).sqrt()


class ScriptedFrameFeatures(FrameFeatures):
    """Image network from a TorchScript file, for instance ``torch.jit.trace(network, image).save(path)``.

    Args:
        path: The file; the network gets images in [0, 1] and has to normalise them.
        size: Side of its input images, in pixels.
    """

    def __init__(self, path: str, size: int = 224) -> None:
        network, digest = load_script(path)
        super().__init__(network, f"{Path(path).stem} ({digest[:8]})", size)


class _RandomNetwork(nn.Module):
    """Convolutions with random weights; returns the output of every layer."""

    def __init__(self, seed: int, widths: Sequence[int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList()
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            layer = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, padding_mode="replicate")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            weight = torch.randn(layer.weight.shape, generator=generator) * (2 / (9 * inputs)) ** 0.5
            if not self.layers:
                weight[outputs // 4 :] -= weight[outputs // 4 :].mean(dim=(2, 3), keepdim=True)
            with torch.no_grad():
                layer.weight.copy_(weight)
            self.layers.append(layer)

    def forward(self, images: Tensor) -> list[Tensor]:
        hidden, found = 2 * images - 1, []
        for layer in self.layers:
            hidden = F.relu(layer(hidden))
            found.append(hidden)
        return found


def _maps(found: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """Output of a network as maps ``(N, C, ...)``."""
    maps = [found] if isinstance(found, Tensor) else list(found)
    return [one[..., None] if one.ndim == 2 else one for one in maps]
