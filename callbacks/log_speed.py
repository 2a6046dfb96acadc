"""Throughput, device utilisation and memory of a training."""

from __future__ import annotations

import resource
import time
from collections import deque
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from modules.geometry import Clip, Layout
from modules.planning.flops import forward_operations

GIB = 2**30


class LogSpeed(Callback):
    """Logs ``speed/clips_per_second`` (all processes), ``speed/memory_gib`` (peak; on a CPU that of the process) and, for models with a
    transformer, ``speed/tokens_per_second``, ``speed/tflops`` per device and ``speed/mfu``, the fraction of the device's peak.

    Operations are those of the transformer, forward and backward, without recomputation and without the tokenizer. Time is that of whole
    steps, data loading included and validation excluded. Lightning's ThroughputMonitor assumes batches of one size and takes peaks that
    hold for sparse matrices only.

    Args:
        tflops: Peak of a device in the precision of the training, 10^12 operations per second (an H100: 989 in bf16); without it no
            ``speed/mfu`` is logged.
        window: Number of steps to average over.

    Raises:
        ValueError: If an argument is not positive.
    """

    def __init__(self, tflops: float | None = None, window: int = 20) -> None:
        if window < 1 or (tflops is not None and tflops <= 0):
            raise ValueError(f"tflops and window must be positive, got {tflops} and {window}")
        self.tflops, self.window = tflops, window

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Time at the end of a batch, and its clips, tokens and operations.
        self._ends: deque[tuple[float, int, int, int]] = deque([(time.monotonic(), 0, 0, 0)], maxlen=self.window + 1)
        self._paused = 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pause = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if hasattr(self, "_paused"):  # not during the sanity check
            self._paused += time.monotonic() - self._pause

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._ends.append((time.monotonic() - self._paused, *counts(pl_module, batch)))
        seconds = self._ends[-1][0] - self._ends[0][0]
        clips, tokens, operations = (sum(end[column] for end in list(self._ends)[1:]) / max(seconds, 1e-9) for column in (1, 2, 3))
        speeds = {"clips_per_second": clips * trainer.world_size, "memory_gib": memory(pl_module.device) / GIB}
        if tokens:
            speeds |= {"tokens_per_second": tokens * trainer.world_size, "tflops": operations / 1e12}
        if tokens and self.tflops:
            speeds["mfu"] = operations / 1e12 / self.tflops
        pl_module.log_dict({f"speed/{name}": float(value) for name, value in speeds.items()})


def counts(pl_module: LightningModule, batch: Any) -> tuple[int, int, int]:
    """Return clips, predicted tokens and operations of a training step with a batch."""
    clips = len(batch["index"])
    if not hasattr(pl_module, "transformer"):
        return clips, 0, 0
    tokenizer: Any = pl_module.tokenizer
    layout = Layout.of(batch["latent"]) if "latent" in batch else tokenizer.layout(Clip(*batch["video"].shape[2:]))
    linear, attention = forward_operations(pl_module.transformer, layout)  # type: ignore[arg-type]
    return clips, clips * layout.tokens, clips * 3 * (linear + attention)


def memory(device: torch.device) -> int:
    """Return the peak of allocated bytes on the device; on a CPU, of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
