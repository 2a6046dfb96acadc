"""A finished run as a model for use from Python."""

from __future__ import annotations

import logging
from argparse import ArgumentError
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch import nn

from modules.exported import read_about
from modules.geometry import Clip
from modules.lit_videoar import LitVideoAR
from modules.mistakes import mistake
from modules.transformer.precision import Precision
from modules.videoar import VideoAR
from modules.weights import load_weights

CONFIG = "fit.yaml"

# What only training needs, whose classes may not be there any more.
TRAINING = {"corruption", "frame_mask", "rollout", "memory", "optimizer"}

log = logging.getLogger(__name__)


def load(path: str | Path, device: str = "cpu", precision: Precision = "float32", graphs: bool = False) -> VideoAR:
    """The autoregressive model of a run of ``train.py fit`` or of ``modules.export``, with its tokenizer, ready to make videos.

    A run's ``fit.yaml`` says what to build; it names classes, which are imported: load only runs that you trust. An exported JSON cannot
    name any but ours. Weights are read without running any code of theirs.

    Args:
        path: The run's folder, a checkpoint in it, or exported weights.
        device: Where the model goes.
        precision: Numbers that hold the transformer's weights: "bfloat16"; "auto", which is bfloat16 on CUDA, and on a CPU where a product
            takes less time in it; or "int8", 8 bits for the weights of the blocks and "auto" for the rest. The log says what was taken.
        graphs: Whether videos are made by CUDA graphs where the device is CUDA. Never run on a GPU so far.

    Raises:
        FileNotFoundError: If there is no checkpoint, or no ``fit.yaml`` in its folder or one above it.
        ValueError: If the run is not one of the autoregressive model, or its weights do not fit its configuration.
    """
    checkpoint = find_checkpoint(Path(path))
    config = read_config(checkpoint)
    model = build(config["model"], checkpoint)
    report = load_weights(model, checkpoint)
    if report.initialised:
        raise ValueError(f"{checkpoint} has no weights of {', '.join(sorted({name.split('.')[0] for name in report.initialised}))}")
    if report.unused:
        raise ValueError(
            f"{checkpoint} is of another architecture: the model has no {report.unused[0]} ({len(report.unused)} such tensors)"
        )
    nn.Module.to(model, device)
    model.eval().requires_grad_(False)
    transformer = model.transformer
    transformer.execution = replace(transformer.execution, precision=precision, graphs=graphs)
    numbers = transformer.numbers()
    transformer.hold(numbers)
    log.info("%s makes videos in %s", checkpoint, numbers)
    return VideoAR(model.generate, Clip(**config["data"]["init_args"]["clip"]))


def build(config: dict[str, Any], checkpoint: Path | str) -> LitVideoAR:
    """The model as its run had it, with random weights, and without what only training needs."""
    config = config | {"init_args": {name: value for name, value in config["init_args"].items() if name not in TRAINING}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LitVideoAR, "model", required=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"model": config}))["model"]
    except ArgumentError as error:
        raise ValueError(f"the {CONFIG} of {checkpoint}: {mistake(error)}") from error


def find_checkpoint(path: Path) -> Path:
    """The checkpoint of a run's folder, or the one that is given."""
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    return checkpoint


def read_config(checkpoint: Path) -> dict[str, Any]:
    """What the run of a checkpoint was given, from the ``fit.yaml`` beside it or a folder above; for exported weights, their JSON."""
    if checkpoint.suffix == ".safetensors":
        about = read_about(checkpoint)
        return {"model": about["model"], "data": {"init_args": {"clip": about["clip"]}}}
    folders = (checkpoint.parent, checkpoint.parent.parent)
    path = next((folder / CONFIG for folder in folders if (folder / CONFIG).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{checkpoint} needs the {CONFIG} of its run beside it or in the folder above, and there is none")
    config = yaml.safe_load(path.read_text())
    kind = config.get("model", {}).get("class_path", "none")
    if not kind.endswith("LitVideoAR"):
        raise ValueError(f"{path} trains {kind}; videos are made by modules.LitVideoAR")
    return config
