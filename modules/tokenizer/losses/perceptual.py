"""How different two videos look to a network that names pictures: LPIPS on VGG16 (paper 4.1, after Zhang et al. 2018)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
import torchmetrics
from einops import rearrange
from torch import Tensor, nn

from modules.storage.tensor_file import open_tensors

# VGG16's convolutions by their number in torchvision's layout; the picture is halved between blocks, and each block's end is compared.
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)
SMALLEST = 2 ** (len(BLOCKS) - 1)

# Statistics of the pictures in [0, 1] that VGG16 was trained with.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

HEADS = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models" / "vgg.pth"


class PerceptualLoss(nn.Module):
    """LPIPS of every frame, mean over frames.

    Its weights are fixed and are no part of checkpoints: they are read from their files whenever the loss is made.

    Args:
        backbone: File of VGG16's weights in torchvision's layout (``features.0.weight`` to ``features.28.bias``; others are ignored),
            ``.pth`` or ``.safetensors``. The weights on top of it come with torchmetrics.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no file of weights, or lacks one or has it in another shape.
    """

    center: Tensor
    spread: Tensor

    def __init__(self, backbone: str) -> None:
        super().__init__()
        if not HEADS.is_file():
            raise FileNotFoundError(f"the installed torchmetrics lacks the weights of the perceptual loss, {HEADS}")
        for name, values in {**_read(backbone, _backbone_shapes()), **_read(HEADS, _head_shapes())}.items():
            self._keep(name, values)
        self._keep("center", 2.0 * torch.tensor(MEAN).view(3, 1, 1) - 1.0)
        self._keep("spread", 2.0 * torch.tensor(DEVIATION).view(3, 1, 1))

    def forward(self, video: Tensor, original: Tensor) -> Tensor:
        """Mean distance of the frames of two videos.

        Half precision is switched off: neighbouring pictures differ by less than its steps, and the differences are squared.

        Args:
            video: ``(B, 3, T, H, W)``, about [-1, 1]; gets a gradient.
            original: The same shape; gets none.

        Returns:
            A float32 scalar, 0 for equal videos.

        Raises:
            ValueError: If frames are too small for the backbone.
        """
        height, width = video.shape[-2:]
        if min(height, width) < SMALLEST:
            raise ValueError(f"the perceptual loss needs frames of at least {SMALLEST} x {SMALLEST} pixels, got {height} x {width}")
        with torch.autocast(video.device.type, enabled=False):
            with torch.no_grad():
                targets = self._features(original)
            pairs = zip(self._features(video), targets, strict=True)
            return torch.stack([self._distance(block, *pair) for block, pair in enumerate(pairs)]).sum()

    def _features(self, video: Tensor) -> list[Tensor]:
        """``(B, 3, T, H, W)`` to the unit feature vectors after every block, each ``(B T, C, h, w)``."""
        hidden = (rearrange(video, "b c t h w -> (b t) c h w").float() - self.center) / self.spread
        features = []
        for block, convolutions in enumerate(BLOCKS):
            hidden = F.max_pool2d(hidden, 2) if block else hidden
            for number in convolutions:
                weight, bias = (self.get_buffer(_flat(f"features.{number}.{kind}")) for kind in ("weight", "bias"))
                hidden = F.relu(F.conv2d(hidden, weight, bias, padding=1))
            features.append(_unit(hidden))
        return features

    def _distance(self, block: int, features: Tensor, targets: Tensor) -> Tensor:
        """Squared differences, weighted by channel, mean over places and frames."""
        return F.conv2d((features - targets).square(), self.get_buffer(_flat(_head(block)))).mean()

    def _keep(self, name: str, values: Tensor) -> None:
        """Hold a tensor that moves with the module; not being persistent keeps it out of checkpoints."""
        self.register_buffer(_flat(name), values, persistent=False)


def _read(path: str | Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The named tensors of a file in float32, each of the shape asked for."""
    found = open_tensors(path)
    for name, shape in shapes.items():
        if not isinstance(found.get(name), Tensor):
            raise ValueError(f"{path} has no {name}, which the perceptual loss needs as {shape}")
        if tuple(found[name].shape) != shape:
            raise ValueError(f"{path}: {name} must be {shape} for the perceptual loss, got {tuple(found[name].shape)}")
    return {name: found[name].float() for name in shapes}


def _backbone_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    incoming = 3
    for convolutions, width in zip(BLOCKS, WIDTHS, strict=True):
        for number in convolutions:
            shapes |= {f"features.{number}.weight": (width, incoming, 3, 3), f"features.{number}.bias": (width,)}
            incoming = width
    return shapes


def _head_shapes() -> dict[str, tuple[int, ...]]:
    return {_head(block): (1, width, 1, 1) for block, width in enumerate(WIDTHS)}


def _head(block: int) -> str:
    return f"lin{block}.model.1.weight"


def _flat(name: str) -> str:
    """A buffer's name may hold no dots."""
    return name.replace(".", "_")


def _unit(features: Tensor) -> Tensor:
    """Vectors of unit length; the small number, that of torchmetrics, keeps vectors of zeros from becoming NaN."""
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
