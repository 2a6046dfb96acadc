"""A finished run as a model for use from Python."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from torch import nn

from modules.geometry import Clip
from modules.init_from import load_weights
from modules.lit_tokenizer import LitTokenizer
from modules.lit_videoar import LitVideoAR
from modules.storage.exported import read_about
from modules.storage.tensor_file import check_joined
from modules.tokenizer import VideoTokenizer
from modules.transformer.execution import Precision
from modules.user_errors import user_error
from modules.videoar import VideoAR

CONFIG = "fit.yaml"

# What only training needs, whose classes may not be there any more.
TRAINING = {
    "corruption",
    "frame_mask",
    "rollout",
    "latent_cache",
    "optimizer",
    "loss",
    "perceptual",
    "adversarial",
    "discriminator_optimizer",
}
KINDS: dict[str, type[nn.Module]] = {"LitVideoAR": LitVideoAR, "LitTokenizer": LitTokenizer}


def load(path: str | Path, device: str = "cpu", precision: Precision = "float32", graphs: bool = False) -> VideoAR:
    """The autoregressive model of a run of ``train.py fit`` or of ``scripts.export``, with its tokenizer, ready to make videos.

    A run's ``fit.yaml`` says what to build; it names classes, which are imported: load only runs that you trust. An exported JSON cannot
    name any but ours. Weights are read without running any code of theirs.

    Args:
        path: The run's folder, a checkpoint in it, or exported weights.
        device: Where the model goes.
        precision: dtype of the transformer weights, "float32" or "bfloat16".
        graphs: Whether videos are made by CUDA graphs where the device is CUDA. Never run on a GPU so far.

    Raises:
        FileNotFoundError: If there is no checkpoint, or no ``fit.yaml`` in its folder or one above it.
        ValueError: If the run is not one of the autoregressive model, or its weights do not fit its configuration.
    """
    checkpoint = find_checkpoint(Path(path))
    config = read_config(checkpoint)
    model: Any = filled(config["model"], checkpoint, device)
    transformer = model.transformer
    transformer.execution = replace(transformer.execution, precision=precision, graphs=graphs)
    transformer.cast_weights(transformer.execution.dtype)
    return VideoAR(model.generate, Clip(**config["data"]["init_args"]["clip"]))


def load_tokenizer(path: str | Path, device: str = "cpu") -> VideoTokenizer:
    """The tokenizer of a run of ``train.py fit``, of its own or of a model over it, or of exported weights, ready for use.

    Args:
        path: The run's folder, a checkpoint in it, or exported weights; see :func:`load` for whom to trust.
        device: Where the tokenizer goes.

    Raises:
        FileNotFoundError: As :func:`load`.
        ValueError: If the weights do not fit the configuration.
    """
    checkpoint = find_checkpoint(Path(path))
    config = read_config(checkpoint, tuple(KINDS))["model"]
    alone = {"class_path": "modules.LitTokenizer", "init_args": {"tokenizer": config["init_args"]["tokenizer"]}}
    return filled(alone, checkpoint, device, others=True).tokenizer  # type: ignore[return-value]


def filled(config: dict[str, Any], checkpoint: Path, device: str, others: bool = False) -> nn.Module:
    """The model with the weights of a checkpoint, which may hold ``others`` or must not, for use without training.

    Raises:
        ValueError: If the weights do not fit the model.
    """
    model = build(config, checkpoint)
    report = load_weights(model, checkpoint)
    if report.initialised:
        raise ValueError(f"{checkpoint} has no weights of {', '.join(sorted({name.split('.')[0] for name in report.initialised}))}")
    if report.unused and not others:
        raise ValueError(
            f"{checkpoint} is of another architecture: the model has no {report.unused[0]} ({len(report.unused)} such tensors)"
        )
    nn.Module.to(model, device)
    return model.eval().requires_grad_(False)


def kind_of(model: dict[str, Any]) -> str:
    """The name of a configured model's class."""
    return model.get("class_path", "nothing").rsplit(".")[-1]


def build(config: dict[str, Any], checkpoint: Path | str, without: Collection[str] = TRAINING) -> Any:
    """The model as its run had it, with random weights, and without some of its arguments: by default what only training needs."""
    kind = KINDS[kind_of(config)]
    config = config | {"init_args": {name: value for name, value in config["init_args"].items() if name not in without}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "model", required=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"model": config}))["model"]
    except ArgumentError as error:
        raise ValueError(f"the {CONFIG} of {checkpoint}: {user_error(error)}") from error


def find_checkpoint(path: Path) -> Path:
    """The checkpoint of a run's folder, or the one that is given."""
    check_joined(path)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    check_joined(checkpoint)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    return checkpoint


def read_config(checkpoint: Path, kinds: Sequence[str] = ("LitVideoAR",)) -> dict[str, Any]:
    """What the run of a checkpoint was given, from the ``fit.yaml`` beside it or a folder above; for exported weights, their JSON.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is of none of these kinds of models.
    """
    if checkpoint.suffix == ".safetensors":
        about = read_about(checkpoint)
        return check_kind({"model": about["model"], "data": {"init_args": {"clip": about["clip"]}}}, checkpoint, kinds)
    folders = (checkpoint.parent, checkpoint.parent.parent)
    path = next((folder / CONFIG for folder in folders if (folder / CONFIG).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{checkpoint} needs the {CONFIG} of its run beside it or in the folder above, and there is none")
    return check_kind(yaml.safe_load(path.read_text()), path, kinds)


def check_kind(config: dict[str, Any], path: Path, kinds: Sequence[str]) -> dict[str, Any]:
    kind = kind_of(config.get("model", {}))
    if kind == "LitTokenizer" and kind not in kinds:
        raise ValueError(f"{path} is of a tokenizer alone, and videos are made by modules.LitVideoAR: modules.load_tokenizer loads it")
    if kind not in kinds:
        raise ValueError(
            f"{path} trains {config.get('model', {}).get('class_path', 'nothing')}, which is none of modules.{', '.join(kinds)}"
        )
    return config
