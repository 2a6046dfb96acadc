"""Inception-v1 inflated to video (I3D, Carreira and Zisserman 2017), RGB, 400 classes; names as in ``i3d_pretrained_400.pt``."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 400

# Widths of a mixed block's branches: 1x1; 1x1 then 3x3; 1x1 then 3x3; pooled then 1x1.
MIXED = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}


class I3DNetwork(nn.Module):
    """I3D: logits of 400 classes, mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        for name, (inputs, widths) in MIXED.items():
            self.add_module(name, Mixed(inputs, widths))
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(1024, CLASSES, 1)})

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 3, T, 224, 224)`` in [-1, 1], T at least 9, to ``(B, 400)``."""
        hidden = pool(self.Conv3d_1a_7x7(video), (1, 3, 3), (1, 2, 2))
        hidden = pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(hidden)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name == "Mixed_4b":
                hidden = pool(hidden, (3, 3, 3), (2, 2, 2))
            elif name == "Mixed_5b":
                hidden = pool(hidden, (2, 2, 2), (2, 2, 2))
            hidden = self.get_submodule(name)(hidden)
        hidden = F.avg_pool3d(hidden, (2, 7, 7), stride=1)
        return self.logits["conv3d"](hidden).mean(dim=(2, 3, 4))


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU; output size is ``ceil(size / stride)``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, hidden: Tensor) -> Tensor:
        padded = same(hidden, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(padded)))


class Mixed(nn.Module):
    """Inception block of four parallel branches."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(inputs, widths[0], 1)
        self.b1a, self.b1b = Unit(inputs, widths[1], 1), Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit(inputs, widths[3], 1), Unit(widths[3], widths[4], 3)
        self.b3b = Unit(inputs, widths[5], 1)

    def forward(self, hidden: Tensor) -> Tensor:
        pooled = self.b3b(pool(hidden, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(hidden), self.b1b(self.b1a(hidden)), self.b2b(self.b2a(hidden)), pooled], dim=1)


def pool(hidden: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Max pooling with "same" padding; zeros are neutral, as the inputs come from a ReLU."""
    return F.max_pool3d(same(hidden, kernel, stride), kernel, stride)  # type: ignore[arg-type]


def same(hidden: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Zero padding as in TensorFlow: an axis of ``n`` gives ``ceil(n / stride)``; of an odd number the larger half is at the end."""
    pads: list[int] = []
    for length, size, step in zip(hidden.shape[:-4:-1], kernel[::-1], stride[::-1], strict=True):
        missing = max(size - (step if length % step == 0 else length % step), 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(hidden, pads)
