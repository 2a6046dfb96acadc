"""Memory per device and time of a training step, by strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modules.planning.flops import Flops
from modules.planning.memory import Memory

Strategy = Literal["single", "ddp", "fsdp"]
FLOAT = 4  # bytes of a float32
DAY = 86_400


@dataclass(frozen=True)
class Devices:
    """Devices of a training.

    Args:
        strategy: "single" device; "ddp", a whole model on each; "fsdp", the transformer sharded by block.
        ranks: Number of devices.
        tflops: Peak of one device, in 10^12 operations per second, in the precision of the training.
        utilisation: Fraction of the peak that is assumed to be used.

    Raises:
        ValueError: If there are no devices, several for "single", or throughput or utilisation is out of range.
    """

    strategy: Strategy
    ranks: int
    tflops: float
    utilisation: float

    def __post_init__(self) -> None:
        if self.ranks < 1 or (self.strategy == "single" and self.ranks > 1):
            raise ValueError(f"{self.ranks} devices do not fit the strategy {self.strategy}: use configs/trainer/ddp.yaml or fsdp.yaml")
        if self.tflops <= 0 or not 0 < self.utilisation <= 1:
            raise ValueError(f"tflops must be positive and utilisation within 0 and 1, got {self.tflops} and {self.utilisation}")


@dataclass(frozen=True)
class StepCost:
    """Memory per device and time of a training step.

    Attributes:
        components: Bytes per device by name.
        seconds: Time of a step, of all batches that it accumulates.
        clips: Clips of a step, of all devices.
        checkpoint: Bytes of a checkpoint.
    """

    components: dict[str, int]
    seconds: float
    clips: int
    checkpoint: int

    @property
    def memory(self) -> int:
        return sum(self.components.values())


def step_cost(memory: Memory, flops: Flops, devices: Devices, batch: int, accumulate: int, frozen: Mapping[str, int]) -> StepCost:
    """Return the cost of a step of ``accumulate`` batches of ``batch`` clips per device.

    Args:
        memory: Of the trained model.
        flops: Of one clip.
        devices: Devices that it runs on.
        batch: Clips per device that are computed at once.
        accumulate: Batches per step.
        frozen: Number of parameters of frozen networks, by name; every device has a full copy.
    """
    activation_checkpointing = memory.recomputed > 0
    shards = devices.ranks if devices.strategy == "fsdp" else 1
    shard = -(-memory.parameters // shards)
    components = {
        "weights": FLOAT * shard,
        "gradients": FLOAT * shard,
        "AdamW's averages": 2 * FLOAT * shard,
        **{f"frozen {name}": FLOAT * parameters for name, parameters in frozen.items()},
        "kept for the backward pass": memory.kept(batch),
    }
    if activation_checkpointing:
        components["one block computed again"] = batch * memory.recomputed
    if shards > 1:
        # Two blocks are unsharded at a time, the current and the prefetched one, and one has an unsharded gradient; parameters outside of
        # blocks are unsharded with their gradient.
        outside = memory.parameters - memory.layers * memory.block
        components["gathered blocks"] = FLOAT * (3 * memory.block + 2 * outside)
    clips = batch * accumulate * devices.ranks
    seconds = batch * accumulate * flops.done(activation_checkpointing) / (devices.tflops * 1e12 * devices.utilisation)
    # The network of a perceptual loss is in no checkpoint.
    return StepCost(components, seconds, clips, FLOAT * (3 * memory.parameters + frozen.get("tokenizer", 0)))


def days(tokens: float, flops: Flops, cost: StepCost) -> float:
    """Return the days that a number of predicted tokens takes."""
    return tokens / (cost.clips * flops.tokens) * cost.seconds / DAY
