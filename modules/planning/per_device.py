"""Memory per device and time of a training step, by strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from modules.planning.flops import Work
from modules.planning.memory import Memory

Strategy = Literal["single", "ddp", "fsdp"]
FLOAT = 4  # bytes of a float32
DAY = 86_400


@dataclass(frozen=True)
class Machine:
    """Devices of a training run.

    Args:
        strategy: "single" for one device; "ddp" for a whole model on each; "fsdp" for a shard of the transformer on each, block by block.
        ranks: Number of devices.
        tflops: Peak throughput of one device in TFLOP/s (10^12 per second), in the precision of the training.
        utilisation: Assumed fraction of the peak that is reached.

    Raises:
        ValueError: If there are no devices, several for "single", or throughput or utilisation is out of range.
    """

    strategy: Strategy
    ranks: int
    tflops: float
    utilisation: float

    def __post_init__(self) -> None:
        if self.ranks < 1 or (self.strategy == "single" and self.ranks > 1):
            raise ValueError(
                f"the strategy {self.strategy} does not support {self.ranks} devices: use configs/trainer/ddp.yaml or fsdp.yaml"
            )
        if self.tflops <= 0 or not 0 < self.utilisation <= 1:
            raise ValueError(f"tflops must be positive and utilisation within 0 and 1, got {self.tflops} and {self.utilisation}")


@dataclass(frozen=True)
class Needs:
    """Memory and time of a training step on every device.

    Attributes:
        components: Bytes per device by component.
        seconds: Duration of a step, including all accumulated batches.
        clips: Clips per step over all devices.
        checkpoint: Bytes of a checkpoint.
    """

    components: dict[str, int]
    seconds: float
    clips: int
    checkpoint: int

    @property
    def memory(self) -> int:
        return sum(self.components.values())


def needs_of(memory: Memory, work: Work, machine: Machine, batch: int, accumulate: int, frozen: Mapping[str, int]) -> Needs:
    """Return the needs of a step of ``accumulate`` batches of ``batch`` clips per device.

    Args:
        memory: Memory of the trained networks.
        work: FLOPs of one clip.
        machine: Devices of the run.
        batch: Clips per device and batch.
        accumulate: Batches per step.
        frozen: Number of parameters of frozen networks, by name; every device has a full copy.
    """
    activation_checkpointing = memory.recomputed > 0
    shards = machine.ranks if machine.strategy == "fsdp" else 1
    share = -(-memory.parameters // shards)
    components = {
        "weights": FLOAT * share,
        "gradients": FLOAT * share,
        "AdamW moments": 2 * FLOAT * share,
        **{f"frozen {name}": FLOAT * parameters for name, parameters in frozen.items()},
        "saved for the backward pass": memory.kept(batch),
    }
    if activation_checkpointing:
        components["one recomputed block"] = batch * memory.recomputed
    if shards > 1:
        # Two blocks are unsharded at a time, the current and the prefetched one, and one has an unsharded gradient; parameters outside of
        # blocks are unsharded with their gradient.
        outside = memory.parameters - memory.layers * memory.block
        components["gathered blocks"] = FLOAT * (3 * memory.block + 2 * outside)
    clips = batch * accumulate * machine.ranks
    seconds = batch * accumulate * work.done(activation_checkpointing) / (machine.tflops * 1e12 * machine.utilisation)
    # Checkpoints do not contain the network of the perceptual loss.
    return Needs(components, seconds, clips, FLOAT * (3 * memory.parameters + frozen.get("tokenizer", 0)))


def days(tokens: float, work: Work, needs: Needs) -> float:
    """Return the training time in days for a budget of predicted tokens."""
    return tokens / (needs.clips * work.tokens) * needs.seconds / DAY
