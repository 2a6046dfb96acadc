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
    """What a training runs on.

    Args:
        strategy: "single" device; "ddp", a whole model on each; "fsdp", a share of the transformer on each, sharded by block.
        ranks: Number of devices.
        tflops: What one of them can do, in 10^12 operations per second, in the precision of the training.
        utilisation: The assumed share of that which is used.

    Raises:
        ValueError: If there are no devices, several for "single", or nothing is used.
    """

    strategy: Strategy
    ranks: int
    tflops: float
    utilisation: float

    def __post_init__(self) -> None:
        if self.ranks < 1 or (self.strategy == "single" and self.ranks > 1):
            raise ValueError(
                f"{self.ranks} devices do not go with the strategy {self.strategy}: take configs/trainer/ddp.yaml or fsdp.yaml"
            )
        if self.tflops <= 0 or not 0 < self.utilisation <= 1:
            raise ValueError(f"tflops must be positive and utilisation within 0 and 1, got {self.tflops} and {self.utilisation}")


@dataclass(frozen=True)
class Needs:
    """A training step on every device.

    Attributes:
        components: Bytes by what they hold.
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


def needs_of(memory: Memory, work: Work, machine: Machine, batch: int, accumulate: int, frozen: Mapping[str, int]) -> Needs:
    """What a step of ``accumulate`` batches of ``batch`` clips per device needs.

    Args:
        memory: Of what is trained.
        work: Of one clip.
        machine: What it runs on.
        batch: Clips per device that are computed at once.
        accumulate: Batches per step.
        frozen: Parameters of networks that are not trained, of which each device has a copy, by their name.
    """
    activation_checkpointing = memory.recomputed > 0
    shards = machine.ranks if machine.strategy == "fsdp" else 1
    share = -(-memory.parameters // shards)
    components = {
        "weights": FLOAT * share,
        "gradients": FLOAT * share,
        "AdamW's averages": 2 * FLOAT * share,
        **{f"frozen {name}": FLOAT * parameters for name, parameters in frozen.items()},
        "kept for the backward pass": memory.kept(batch),
    }
    if activation_checkpointing:
        components["one block computed again"] = batch * memory.recomputed
    if shards > 1:
        # Two blocks are whole at a time, one computed and one fetched, and one has a whole gradient; so has what lies outside of blocks.
        outside = memory.parameters - memory.layers * memory.block
        components["gathered blocks"] = FLOAT * (3 * memory.block + 2 * outside)
    clips = batch * accumulate * machine.ranks
    seconds = batch * accumulate * work.done(activation_checkpointing) / (machine.tflops * 1e12 * machine.utilisation)
    # The network of a perceptual loss is in no checkpoint.
    return Needs(components, seconds, clips, FLOAT * (3 * memory.parameters + frozen.get("tokenizer", 0)))


def days(tokens: float, work: Work, needs: Needs) -> float:
    """How long a budget of predicted tokens takes."""
    return tokens / (needs.clips * work.tokens) * needs.seconds / DAY
