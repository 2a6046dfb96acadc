"""Estimate of a training's memory, operations and time.

``python -m scripts.plan -c configs/videoar.yaml ...``, or with ``tokenizer.yaml``, takes the options of ``train.py fit``, builds the model
without weights (on the meta device), and runs nothing. Strategy, devices, precision, activation checkpointing, accumulation and
batch size are those of the configuration.
"""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from modules.geometry import Clip, Layout
from modules.loading import KINDS, build, kind_of
from modules.planning import (
    Builder,
    Devices,
    Flops,
    Memory,
    StepCost,
    TokenizerTraining,
    flops_of,
    memory_of,
    step_cost,
    tokenizer_flops_of,
    tokenizer_memory_of,
)
from modules.planning.per_device import Strategy, days
from modules.transformer import VideoARTransformer
from scripts.cli import command_line
from train import VideoARCLI

GIB = 2**30
NOT_COUNTED = "Not counted: temporary tensors within operations, the encoder at flops, buffers of communication, what CUDA itself takes."


class PlanCLI(VideoARCLI):
    """Command line of ``train.py fit`` with the options of the plan; builds nothing, as the planned devices may not be present."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--tflops", type=float, default=989.0, help="10^12 operations per second of a device (H100: 989, bf16, dense)")
        parser.add_argument("--utilisation", type=float, default=0.4, help="assumed fraction of the peak")
        parser.add_argument("--tokens", type=float | None, default=None, help="tokens to train on; by default those of trainer.max_steps")

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def after_instantiate_classes(self) -> None:
        """Load nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def compose(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``train.py fit`` with these arguments, without building anything."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter|Mismatch dtype between input and weight")
    config = PlanCLI(["fit", *arguments]).config["fit"]
    assert isinstance(config, Namespace)
    return config.as_dict()


class TrainingEstimate(NamedTuple):
    """Estimate of a training before it runs.

    Attributes:
        title: Model, clips and devices in words.
        layout: Of a clip's tokens.
        flops: Of a clip.
        devices: What it would run on.
        cost: Of a step.
        steps: Steps of the run.
    """

    title: str
    layout: Layout
    flops: Flops
    devices: Devices
    cost: StepCost
    steps: int


def estimate(config: dict[str, Any], tflops: float, utilisation: float) -> TrainingEstimate:
    """Return the estimate of a training.

    Args:
        config: Settings of a ``fit``.
        tflops: What a device can do, 10^12 operations per second.
        utilisation: Fraction of it that is assumed to be used.

    Raises:
        ValueError: If the configuration has another model, no clip size, an unknown strategy or no number of devices.
    """
    trainer, data = config["trainer"], config["data"]["init_args"]
    if (kind := kind_of(config["model"])) not in KINDS:
        raise ValueError(f"only trainings of modules.{' and modules.'.join(KINDS)} can be planned, not of {config['model']['class_path']}")
    if "clip" not in data:
        raise ValueError(f"{config['data']['class_path']} does not give the size of a clip: data.clip is missing")
    devices = Devices(strategy_of(trainer), ranks_of(trainer), tflops, utilisation)
    clip, bf16 = Clip(**data["clip"]), str(trainer["precision"]).startswith("bf16")
    model = (of_tokenizer if kind == "LitTokenizer" else of_transformer)(config["model"], devices, clip, bf16)
    cost = step_cost(model.memory, model.flops, devices, data["batch_size"], trainer["accumulate_grad_batches"], model.frozen)
    layout = model.layout
    title = (
        f"{model.title}\nclips of {clip.frames} x {clip.height} x {clip.width}: {layout.frames} latent frames, scales "
        + " ".join(f"{height}x{width}" for height, width in layout.pyramid.sizes)
        + f"\n{devices.strategy} on {devices.ranks} devices, {'bf16-mixed' if bf16 else 'float32'}, "
        f"activation checkpointing {'on' if model.memory.recomputed else 'off'}, {data['batch_size']} clips per device at once"
    )
    return TrainingEstimate(title, layout, model.flops, devices, cost, max(0, trainer["max_steps"]))


class ModelEstimate(NamedTuple):
    """Description, memory and FLOPs of a trained model; ``frozen`` has the numbers of parameters of networks that are not trained."""

    title: str
    layout: Layout
    memory: Memory
    flops: Flops
    frozen: dict[str, int]


def of_transformer(settings: dict[str, Any], devices: Devices, clip: Clip, bf16: bool) -> ModelEstimate:
    with torch.device("meta"):
        model = build(settings, "the command line")
    layout = model.tokenizer.layout(clip)
    memory = memory_of(builder(settings), layout, model.transformer.execution.activation_checkpointing, bf16)
    flops = flops_of(model.tokenizer, model.transformer, clip)
    tokenizer = sum(parameter.numel() for parameter in model.tokenizer.parameters())
    return ModelEstimate(
        f"transformer {memory.parameters:,} parameters, frozen tokenizer {tokenizer:,}", layout, memory, flops, {"tokenizer": tokenizer}
    )


def of_tokenizer(settings: dict[str, Any], devices: Devices, clip: Clip, bf16: bool) -> ModelEstimate:
    if devices.strategy == "fsdp":
        raise ValueError("a tokenizer cannot be sharded: use configs/trainer/ddp.yaml")

    def make() -> TokenizerTraining:
        model = build(settings, "the command line", {"optimizer", "discriminator_optimizer"})
        return TokenizerTraining(model.tokenizer, model.loss, model.perceptual, model.adversary)

    with torch.device("meta"):
        training = make()
    memory, flops = tokenizer_memory_of(make, clip, bf16), tokenizer_flops_of(training, clip)
    own = sum(parameter.numel() for parameter in training.tokenizer.parameters())
    discriminators = f", its discriminators {training.trained - own:,}" if training.adversary else ""
    frozen = {"network of the perceptual loss": training.frozen} if training.perceptual else {}
    return ModelEstimate(f"tokenizer {own:,} parameters{discriminators}", training.tokenizer.layout(clip), memory, flops, frozen)


def plan(config: dict[str, Any], tflops: float, utilisation: float, tokens: float | None = None) -> str:
    """Return the estimate of a training as a table, for ``tokens`` to predict, by default those of ``trainer.max_steps``."""
    found = estimate(config, tflops, utilisation)
    budget = tokens or found.steps * found.cost.clips * found.flops.tokens
    return "\n".join([found.title, "", *rows(found.flops, found.cost, found.devices, budget), "", NOT_COUNTED, ""])


def rows(flops: Flops, cost: StepCost, devices: Devices, budget: float) -> list[str]:
    """Return the rows of the table in Markdown."""
    per_second = cost.clips / cost.seconds
    length: list[tuple[str, str]] = []
    parts: list[tuple[str, str]] = []
    if flops.attention:
        fraction = flops.attention / (flops.attention + flops.linear)
        length = [("sequence length", f"{flops.sequence:,}")]
        parts = [("of it attention", f"{fraction:.0%}"), ("TFLOP of encoding a clip", f"{flops.encoding / 1e12:.3f}")]
    found = [
        ("tokens of a clip", f"{flops.tokens:,}"),
        *length,
        ("TFLOP of a clip, forward and backward", f"{flops.training / 1e12:.3f}"),
        *parts,
        ("clips per step", f"{cost.clips:,}"),
        ("PFLOP per step, all devices", f"{flops.training * cost.clips / 1e15:.4f}"),
        *((f"GiB per device: {name}", f"{size / GIB:.3f}") for name, size in cost.components.items()),
        ("GiB per device, sum", f"{cost.memory / GIB:.3f}"),
        ("GiB of a checkpoint", f"{cost.checkpoint / GIB:.3f}"),
        (f"seconds per step, if {devices.utilisation:.0%} of {devices.tflops:g} TFLOP/s are used", f"{cost.seconds:.3f}"),
        ("tokens per second, all devices", f"{per_second * flops.tokens:,.0f}"),
        (f"days for {budget:.3g} tokens", f"{days(budget, flops, cost):.2f}"),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in found)]


def builder(config: dict[str, Any]) -> Builder:
    """Return a function that builds the configured transformer with another number of blocks."""

    def make(layers: int | None, activation_checkpointing: bool) -> VideoARTransformer:
        changed = copy.deepcopy(config)
        settings = changed["init_args"]["transformer"]["init_args"]
        settings["layers"] = settings["layers"] if layers is None else layers
        settings["execution"] = {**(settings.get("execution") or {}), "activation_checkpointing": activation_checkpointing}
        return build(changed, "the command line").transformer

    return make


def strategy_of(trainer: dict[str, Any]) -> Strategy:
    """Return the strategy of a trainer's settings.

    Raises:
        ValueError: If it is another one than these.
    """
    given = trainer["strategy"]
    name = given if isinstance(given, str) else given["class_path"].rsplit(".")[-1]
    if name in ("auto", "SingleDeviceStrategy"):
        return "single"
    if name.lower().startswith("ddp"):
        return "ddp"
    if name in ("FullySharded", "FullyShardedFolders", "ModelParallelStrategy"):
        return "fsdp"
    raise ValueError(f"trainings with the strategy {name} cannot be planned")


def ranks_of(trainer: dict[str, Any]) -> int:
    """Return the number of devices on all nodes."""
    devices = trainer["devices"]
    if not str(devices).isdecimal():
        raise ValueError(f"give the number of devices of a node: --trainer.devices 8 instead of {devices!r}")
    return int(devices) * trainer["num_nodes"]


def main(arguments: list[str] | None = None) -> None:
    with command_line():
        config = compose(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.write(plan(config, config["tflops"], config["utilisation"], config["tokens"]))


if __name__ == "__main__":
    main()
