"""What a training of the autoregressive model will need, before it is started: ``python -m modules.plan -c configs/videoar.yaml ...``.

Takes the options of ``train.py fit``, builds the model without its content, and runs nothing. Strategy, devices, precision, activation
checkpointing, accumulation and batch size are those of the configuration.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace

from modules.geometry import Clip, Layout
from modules.loading import build
from modules.mistakes import mistake
from modules.planning import Builder, Machine, Needs, Work, memory_of, needs_of, work_of
from modules.planning.needs import Strategy, days
from modules.transformer import VideoARTransformer
from train import Parser, VideoARCLI

GIB = 2**30
NOT_COUNTED = "Not counted: temporary tensors within operations, the encoder at work, buffers of communication, what CUDA itself takes."


class Composed(VideoARCLI):
    """The configuration of a command line, without building anything."""

    def instantiate_classes(self) -> None:
        """Nothing, as hardware may be named that is not here."""

    def after_instantiate_classes(self) -> None:
        """Nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Nothing."""


def compose(arguments: Sequence[str]) -> dict[str, Any]:
    """The settings of ``train.py fit`` with these options."""
    settings = {"parser_mode": "omegaconf+", "exit_on_error": False}
    cli = Composed(args=["fit", *arguments], parser_class=Parser, parser_kwargs=settings, seed_everything_default=0)
    config = cli.config["fit"]
    assert isinstance(config, Namespace)
    return config.as_dict()


class Planned(NamedTuple):
    """A training that was not run.

    Attributes:
        title: Model, clips and devices in words.
        layout: Of a clip's tokens.
        work: Of a clip.
        machine: What it would run on.
        needs: Of a step.
        steps: Steps of the run.
    """

    title: str
    layout: Layout
    work: Work
    machine: Machine
    needs: Needs
    steps: int


def planned(config: dict[str, Any], tflops: float, utilisation: float) -> Planned:
    """Compute what a training needs.

    Args:
        config: Settings of a ``fit``.
        tflops: What a device can do, 10^12 operations per second.
        utilisation: The assumed share of that.

    Raises:
        ValueError: If it is no training of the autoregressive model, or the number of devices is not said.
    """
    trainer, data = config["trainer"], config["data"]["init_args"]
    if not config["model"]["class_path"].endswith("LitVideoAR"):
        raise ValueError(f"only trainings of modules.LitVideoAR are planned, not of {config['model']['class_path']}")
    if "clip" not in data:
        raise ValueError(f"{config['data']['class_path']} does not say what a clip measures: data.clip is missing")
    machine = Machine(strategy_of(trainer), ranks_of(trainer), tflops, utilisation)
    clip, bf16 = Clip(**data["clip"]), str(trainer["precision"]).startswith("bf16")
    with torch.device("meta"):
        model = build(config["model"], "the command line")
    recompute, layout = model.transformer.execution.recompute, model.tokenizer.layout(clip)
    memory = memory_of(builder(config["model"]), layout, recompute, bf16)
    work = work_of(model.tokenizer, model.transformer, clip)
    tokenizer = sum(parameter.numel() for parameter in model.tokenizer.parameters())
    needs = needs_of(memory, work, machine, data["batch_size"], trainer["accumulate_grad_batches"], tokenizer)
    title = (
        f"transformer {memory.parameters:,} parameters, frozen tokenizer {tokenizer:,}\n"
        f"clips of {clip.frames} x {clip.height} x {clip.width}: {layout.frames} latent frames, scales "
        + " ".join(f"{height}x{width}" for height, width in layout.pyramid.sizes)
        + f"\n{machine.strategy} on {machine.ranks} devices, {'bf16-mixed' if bf16 else 'float32'}, "
        f"activation checkpointing {'on' if recompute else 'off'}, {data['batch_size']} clips per device at once"
    )
    return Planned(title, layout, work, machine, needs, max(0, trainer["max_steps"]))


def plan(config: dict[str, Any], tflops: float, utilisation: float, tokens: float | None = None) -> str:
    """A table of what a training needs, for ``tokens`` to be predicted; those of ``trainer.max_steps`` if not given."""
    found = planned(config, tflops, utilisation)
    budget = tokens or found.steps * found.needs.clips * found.work.tokens
    return "\n".join([found.title, "", *rows(found.work, found.needs, found.machine, budget), "", NOT_COUNTED, ""])


def rows(work: Work, needs: Needs, machine: Machine, budget: float) -> list[str]:
    """The table."""
    per_second = needs.clips / needs.seconds
    found: list[tuple[str, str]] = [
        ("tokens of a clip that are predicted", f"{work.tokens:,}"),
        ("sequence length", f"{work.sequence:,}"),
        ("TFLOP of a clip, forward and backward", f"{work.training / 1e12:.3f}"),
        ("of it attention", f"{work.attention / (work.attention + work.linear):.0%}"),
        ("TFLOP of encoding a clip", f"{work.encoding / 1e12:.3f}"),
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
    """Makes the configured transformer with other numbers of blocks."""

    def make(layers: int | None, recompute: bool) -> VideoARTransformer:
        changed = copy.deepcopy(config)
        settings = changed["init_args"]["transformer"]["init_args"]
        settings["layers"] = settings["layers"] if layers is None else layers
        settings["execution"] = {**(settings.get("execution") or {}), "recompute": recompute}
        return build(changed, "the command line").transformer

    return make


def strategy_of(trainer: dict[str, Any]) -> Strategy:
    """How a trainer shares the work."""
    given = trainer["strategy"]
    name = given if isinstance(given, str) else given["class_path"].rsplit(".")[-1]
    if name in ("auto", "SingleDeviceStrategy"):
        return "single"
    if name.lower().startswith("ddp"):
        return "ddp"
    if name in ("FullySharded", "ModelParallelStrategy"):
        return "fsdp"
    raise ValueError(f"trainings with the strategy {name} are not planned")


def ranks_of(trainer: dict[str, Any]) -> int:
    """The number of devices on all nodes."""
    devices = trainer["devices"]
    if not str(devices).isdecimal():
        raise ValueError(f"say how many devices a node has: --trainer.devices 8 instead of {devices!r}")
    return int(devices) * trainer["num_nodes"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Prints what a training needs. All other options are those of train.py fit.", allow_abbrev=False
    )
    parser.add_argument("--tflops", type=float, default=989.0, help="10^12 operations per second of a device (an H100: 989 in bf16, dense)")
    parser.add_argument("--utilisation", type=float, default=0.4, help="the assumed share of them that is used")
    parser.add_argument("--tokens", type=float, help="how many tokens to train on; those of trainer.max_steps if not given")
    own, rest = parser.parse_known_args(arguments)
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter|Mismatch dtype between input and weight")
    try:
        sys.stdout.write(plan(compose(rest), own.tflops, own.utilisation, own.tokens))
    except Exception as error:
        if (text := mistake(error)) is None:
            raise
        sys.exit(f"error: {text}")


if __name__ == "__main__":
    main()
