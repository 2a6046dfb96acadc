"""LPIPS with a VGG16 backbone (paper 4.1; Zhang et al. 2018)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import torchmetrics
from einops import rearrange
from torch import Tensor, nn

from modules.storage.tensor_file import open_tensors

# VGG16's convolutions by their index in torchvision's layout. Max pooling separates the blocks; the output of each block is compared.
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
MIN_SIZE = 2 ** (len(BLOCKS) - 1)

# ImageNet statistics of images in [0, 1].
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

HEADS = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "vgg.pth"


class PerceptualLoss(nn.Module):
    """LPIPS of each frame, mean over frames.

    Its weights are fixed and not saved in checkpoints; the constructor reads them from their files.

    Args:
        backbone: File with VGG16's weights in torchvision's layout (``features.0.weight`` to ``features.28.bias``; others are ignored),
            ``.pth`` or ``.safetensors``. The weights of the linear heads come with torchmetrics.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a file of weights, or a tensor is missing or has another shape.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, backbone: str) -> None:
        super().__init__()
        if not HEADS.is_file():
            raise FileNotFoundError(f"the installed torchmetrics lacks the weights of the perceptual loss, {HEADS}")
        heads = {_head(block): (1, width, 1, 1) for block, width in enumerate(WIDTHS)}
        buffers = _read(backbone, _backbone_shapes()) | _read(HEADS, heads)
        buffers["center"] = 2.0 * torch.tensor(MEAN).view(3, 1, 1) - 1.0
        buffers["spread"] = 2.0 * torch.tensor(DEVIATION).view(3, 1, 1)
        for name, values in buffers.items():
            self.register_buffer(_buffer_name(name), values, persistent=False)

    def forward(self, video: Tensor, original: Tensor) -> Tensor:
        """Mean distance of the frames of two videos, a float32 scalar, 0 for equal videos.

        Always computed in float32: half precision cannot represent the small differences between similar images.

        Args:
            video: ``(B, 3, T, H, W)``, about [-1, 1]; gets a gradient.
            original: The same shape; gets none.

        Raises:
            ValueError: If frames are too small for the backbone.
        """
        height, width = video.shape[-2:]
        if min(height, width) < MIN_SIZE:
            raise ValueError(f"the perceptual loss needs frames of at least {MIN_SIZE} x {MIN_SIZE} pixels, got {height} x {width}")
        with torch.autocast(video.device.type, enabled=False):
            with torch.no_grad():
                targets = self._features(original)
            pairs = zip(self._features(video), targets, strict=True)
            return torch.stack([self._distance(block, *pair) for block, pair in enumerate(pairs)]).sum()

    def _features(self, video: Tensor) -> list[Tensor]:
        """Unit feature vectors after each block, ``(B T, C, h, w)``, of ``(B, 3, T, H, W)``."""
        hidden = (rearrange(video, "b c t h w -> (b t) c h w").float() - self.center) / self.spread
        features = []
        for block, convolutions in enumerate(BLOCKS):
            hidden = F.max_pool2d(hidden, 2) if block else hidden
            for index in convolutions:
                weight, bias = (self.get_buffer(_buffer_name(f"features.{index}.{kind}")) for kind in ("weight", "bias"))
                hidden = F.relu(F.conv2d(hidden, weight, bias, padding=1))
            # The epsilon of torchmetrics keeps zero vectors from becoming NaN.
            features.append(hidden / (hidden.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
        return features

    def _distance(self, block: int, features: Tensor, targets: Tensor) -> Tensor:
        """Squared differences, weighted by channel, mean over positions and frames."""
        return F.conv2d((features - targets).square(), self.get_buffer(_buffer_name(_head(block)))).mean()


def _read(path: str | Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return the named tensors of a file in float32; raise ``ValueError`` if one is missing or has another shape."""
    found = open_tensors(path)
    for name, shape in shapes.items():
        if not isinstance(found.get(name), Tensor):
            raise ValueError(f"{path} has no {name}, which the perceptual loss needs as {shape}")
        if tuple(found[name].shape) != shape:
            raise ValueError(f"{path}: {name} must be {shape} for the perceptual loss, got {tuple(found[name].shape)}")
    return {name: found[name].float() for name in shapes}


def _backbone_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for convolutions, width in zip(BLOCKS, WIDTHS, strict=True):
        for index in convolutions:
            shapes |= {f"features.{index}.weight": (width, channels, 3, 3), f"features.{index}.bias": (width,)}
            channels = width
    return shapes


def _head(block: int) -> str:
    return f"lin{block}.model.1.weight"


def _buffer_name(name: str) -> str:
    """Buffer names must not contain dots."""
    return name.replace(".", "_")
