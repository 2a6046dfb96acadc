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
    Machine,
    Memory,
    Needs,
    TokenizerTraining,
    Work,
    memory_of,
    needs_of,
    tokenizer_memory_of,
    tokenizer_work_of,
    work_of,
)
from modules.planning.per_device import Strategy, days
from modules.transformer import VideoARTransformer
from scripts.cli import command_line
from train import VideoARCLI

GIB = 2**30
NOT_COUNTED = "Not counted: temporary tensors within operations, the encoder at work, buffers of communication, what CUDA itself takes."


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


class Planned(NamedTuple):
    """Estimated training.

    Attributes:
        title: Model, clips and devices in words.
        layout: Token layout of a clip.
        work: Operations per clip.
        machine: Devices and their speed.
        needs: Memory and time of a step.
        steps: Steps of the run.
    """

    title: str
    layout: Layout
    work: Work
    machine: Machine
    needs: Needs
    steps: int


def planned(config: dict[str, Any], tflops: float, utilisation: float) -> Planned:
    """Return the estimate of a training.

    Args:
        config: Settings of a ``fit``.
        tflops: Peak of a device, 10^12 operations per second.
        utilisation: Assumed fraction of the peak.

    Raises:
        ValueError: If the configuration has another model, no clip size, an unknown strategy or no number of devices.
    """
    trainer, data = config["trainer"], config["data"]["init_args"]
    if (kind := kind_of(config["model"])) not in KINDS:
        raise ValueError(f"only trainings of modules.{' and modules.'.join(KINDS)} can be planned, not of {config['model']['class_path']}")
    if "clip" not in data:
        raise ValueError(f"{config['data']['class_path']} has no clip size: data.clip is missing")
    machine = Machine(strategy_of(trainer), ranks_of(trainer), tflops, utilisation)
    clip, bf16 = Clip(**data["clip"]), str(trainer["precision"]).startswith("bf16")
    size = (of_tokenizer if kind == "LitTokenizer" else of_transformer)(config["model"], machine, clip, bf16)
    needs = needs_of(size.memory, size.work, machine, data["batch_size"], trainer["accumulate_grad_batches"], size.frozen)
    layout = size.layout
    title = (
        f"{size.title}\nclips of {clip.frames} x {clip.height} x {clip.width}: {layout.frames} latent frames, scales "
        + " ".join(f"{height}x{width}" for height, width in layout.pyramid.sizes)
        + f"\n{machine.strategy} on {machine.ranks} devices, {'bf16-mixed' if bf16 else 'float32'}, "
        f"activation checkpointing {'on' if size.memory.recomputed else 'off'}, {data['batch_size']} clips per device at once"
    )
    return Planned(title, layout, size.work, machine, needs, max(0, trainer["max_steps"]))


class Sized(NamedTuple):
    """Summary of the trained model, its token layout, memory and operations, and the parameter counts of its frozen parts."""

    title: str
    layout: Layout
    memory: Memory
    work: Work
    frozen: dict[str, int]


def of_transformer(settings: dict[str, Any], machine: Machine, clip: Clip, bf16: bool) -> Sized:
    with torch.device("meta"):
        model = build(settings, "the command line")
    layout = model.tokenizer.layout(clip)
    memory = memory_of(builder(settings), layout, model.transformer.execution.activation_checkpointing, bf16)
    work = work_of(model.tokenizer, model.transformer, clip)
    tokenizer = sum(parameter.numel() for parameter in model.tokenizer.parameters())
    return Sized(
        f"transformer {memory.parameters:,} parameters, frozen tokenizer {tokenizer:,}", layout, memory, work, {"tokenizer": tokenizer}
    )


def of_tokenizer(settings: dict[str, Any], machine: Machine, clip: Clip, bf16: bool) -> Sized:
    if machine.strategy == "fsdp":
        raise ValueError("a tokenizer is not sharded across devices: use configs/trainer/ddp.yaml")

    def make() -> TokenizerTraining:
        model = build(settings, "the command line", {"optimizer", "discriminator_optimizer"})
        return TokenizerTraining(model.tokenizer, model.loss, model.perceptual, model.adversary)

    with torch.device("meta"):
        training = make()
    memory, work = tokenizer_memory_of(make, clip, bf16), tokenizer_work_of(training, clip)
    own = sum(parameter.numel() for parameter in training.tokenizer.parameters())
    critics = f", its discriminators {training.trained - own:,}" if training.adversary else ""
    frozen = {"network of the perceptual loss": training.frozen} if training.perceptual else {}
    return Sized(f"tokenizer {own:,} parameters{critics}", training.tokenizer.layout(clip), memory, work, frozen)


def plan(config: dict[str, Any], tflops: float, utilisation: float, tokens: float | None = None) -> str:
    """Return the estimate as Markdown, for a number of predicted tokens; those of ``trainer.max_steps`` if not given."""
    found = planned(config, tflops, utilisation)
    budget = tokens or found.steps * found.needs.clips * found.work.tokens
    return "\n".join([found.title, "", *rows(found.work, found.needs, found.machine, budget), "", NOT_COUNTED, ""])


def rows(work: Work, needs: Needs, machine: Machine, budget: float) -> list[str]:
    """Return the lines of the Markdown table."""
    per_second = needs.clips / needs.seconds
    length: list[tuple[str, str]] = []
    parts: list[tuple[str, str]] = []
    if work.attention:
        share = work.attention / (work.attention + work.linear)
        length = [("sequence length", f"{work.sequence:,}")]
        parts = [("of it attention", f"{share:.0%}"), ("TFLOP of encoding a clip", f"{work.encoding / 1e12:.3f}")]
    found = [
        ("tokens of a clip", f"{work.tokens:,}"),
        *length,
        ("TFLOP of a clip, forward and backward", f"{work.training / 1e12:.3f}"),
        *parts,
        ("clips per step", f"{needs.clips:,}"),
        ("PFLOP per step, all devices", f"{work.training * needs.clips / 1e15:.4f}"),
        *((f"GiB per device: {name}", f"{size / GIB:.3f}") for name, size in needs.components.items()),
        ("GiB per device, sum", f"{needs.memory / GIB:.3f}"),
        ("GiB of a checkpoint", f"{needs.checkpoint / GIB:.3f}"),
        (f"seconds per step, if {machine.utilisation:.0%} of {machine.tflops:g} TFLOP/s are used", f"{needs.seconds:.3f}"),
        ("tokens per second, all devices", f"{per_second * work.tokens:,.0f}"),
        (f"days for {budget:.3g} tokens", f"{days(budget, work, needs):.2f}"),
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
    """Return the kind of the trainer's strategy; raises ``ValueError`` for an unknown one."""
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
    """Return the number of devices of all nodes; raises ``ValueError`` if it is not given as a number."""
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
