"""MobileNetV2 (Sandler et al. 2018) image features, from a file in torchvision's layout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.metrics.features.frame_features import FrameFeatures
from modules.metrics.features.video_features import fill
from modules.storage.checksums import file_hash
from modules.storage.tensor_file import open_tensors

# Expansion, width, number of blocks and stride of the first of them, for every stage.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
LAYERS = 19
LAST = 1280

# Mean and standard deviation of the training images in [0, 1].
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class MobileNetFeatures(FrameFeatures):
    """Maps of MobileNetV2, trained on ImageNet.

    The whole network has 1280 channels, so vectors of 2560 numbers, which need thousands of videos; earlier layers have fewer.

    Args:
        path: Weights in torchvision's layout, ``mobilenet_v2-b0353104.pth`` or ``mobilenet_v2-7ebf99e0.pth``.
        layers: Number of leading layers to use, 19 for all; 14 give 96 channels.
        size: Side of the images, in pixels.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it has other weights, or ``layers`` is out of range.
    """

    def __init__(self, path: str, layers: int = LAYERS, size: int = 224) -> None:
        if not 1 <= layers <= LAYERS:
            raise ValueError(f"MobileNetV2 has layers 1 to {LAYERS}, got {layers}")
        digest = file_hash(path)
        network = MobileNet()
        weights = {name: values for name, values in open_tensors(path).items() if not name.startswith("classifier.")}
        fill(network, weights, path, "MobileNetV2")
        network.features = nn.Sequential(*list(network.features)[:layers])
        super().__init__(network, f"{layers} of {LAYERS} layers of MobileNetV2 ({digest[:8]})", size)


class MobileNet(nn.Module):
    """Maps of images in [0, 1]."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [unit(3, 32, 3, stride=2)]
        width = 32
        for expansion, outputs, blocks, first in STAGES:
            for number in range(blocks):
                layers.append(Block(width, outputs, expansion, stride=1 if number else first))
                width = outputs
        self.features = nn.Sequential(*layers, unit(width, LAST, 1))
        for name, values in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.features((images - self.mean) / self.deviation)


class Block(nn.Module):
    """Inverted residual block; the shortcut exists where input and output have the same shape."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = inputs * expansion
        widened = [unit(inputs, wide, 1)] if expansion > 1 else []
        narrow = [nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.conv = nn.Sequential(*widened, unit(wide, wide, 3, stride=stride, groups=wide), *narrow)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.conv(hidden) if self.residual else self.conv(hidden)


def unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())
