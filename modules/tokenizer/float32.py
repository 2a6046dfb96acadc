"""True float32 on every device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def true_float32(device: torch.device) -> Iterator[None]:
    """Compute on a device without autocast and without TF32, whose 10-bit mantissa PyTorch allows in CUDA convolutions by default.

    Latents are made in it: rounded ones near zero get other signs, so cached and freshly encoded bits would differ between devices.
    """
    backends: Any = torch.backends  # its modules do not declare that their flags can be set
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
