"""Loading finished runs and exported models for use from Python."""

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
from modules.renames import check_config
from modules.storage.exported import read_about
from modules.storage.tensor_file import check_is_file
from modules.tokenizer import VideoTokenizer
from modules.transformer.execution import Precision
from modules.user_errors import user_error
from modules.videoar import VideoAR

CONFIG = "fit.yaml"

# Arguments that only training needs. Their classes may no longer exist.
TRAINING_ARGUMENTS = {
    "corruption",
    "frame_mask",
    "rollout",
    "scale_weights",
    "latent_cache",
    "optimizer",
    "loss",
    "perceptual",
    "adversarial",
    "discriminator_optimizer",
}
KINDS: dict[str, type[nn.Module]] = {"LitVideoAR": LitVideoAR, "LitTokenizer": LitTokenizer}


def load(path: str | Path, device: str = "cpu", precision: Precision = "float32", graphs: bool = False) -> VideoAR:
    """Load the autoregressive model of a run of ``train.py fit`` or of ``scripts.export``, with its tokenizer, ready to generate.

    The ``fit.yaml`` of a run names classes, which are imported: load only runs that you trust. An exported JSON can name only classes of
    this project. Weights are read without running code from them.

    Args:
        path: The run's folder, a checkpoint in it, or exported weights.
        device: Device of the model.
        precision: dtype of the transformer weights, "float32" or "bfloat16".
        graphs: True to generate with CUDA graphs on CUDA devices. Not yet run on a GPU.

    Raises:
        FileNotFoundError: If there is no checkpoint, or no ``fit.yaml`` in its folder or the one above.
        ValueError: If the run does not train the autoregressive model, or its weights do not fit its configuration.
    """
    checkpoint = find_checkpoint(Path(path))
    config = read_config(checkpoint)
    model: Any = build_with_weights(config["model"], checkpoint, device)
    transformer = model.transformer
    transformer.execution = replace(transformer.execution, precision=precision, graphs=graphs)
    transformer.cast_weights(transformer.execution.dtype)
    return VideoAR(model.generate, Clip(**config["data"]["init_args"]["clip"]))


def load_tokenizer(path: str | Path, device: str = "cpu") -> VideoTokenizer:
    """Load the tokenizer of a run of either model, or of exported weights, ready for use.

    Args:
        path: The run's folder, a checkpoint in it, or exported weights; :func:`load` states which to trust.
        device: Device of the tokenizer.

    Raises:
        FileNotFoundError: As :func:`load`.
        ValueError: If the weights do not fit the configuration.
    """
    checkpoint = find_checkpoint(Path(path))
    config = read_config(checkpoint, tuple(KINDS))["model"]
    tokenizer_only = {"class_path": "modules.LitTokenizer", "init_args": {"tokenizer": config["init_args"]["tokenizer"]}}
    return build_with_weights(tokenizer_only, checkpoint, device, allow_unused=True).tokenizer  # type: ignore[return-value]


def build_with_weights(config: dict[str, Any], checkpoint: Path, device: str, allow_unused: bool = False) -> nn.Module:
    """Return the model of a configuration with the weights of a checkpoint, in evaluation mode.

    Raises:
        ValueError: If the checkpoint lacks weights of the model or, unless ``allow_unused``, has others.
    """
    model = build(config, checkpoint)
    report = load_weights(model, checkpoint)
    if report.initialised:
        raise ValueError(f"{checkpoint} has no weights of {', '.join(sorted({name.split('.')[0] for name in report.initialised}))}")
    if report.unused and not allow_unused:
        raise ValueError(
            f"{checkpoint} is of another architecture: the model has no {report.unused[0]} ({len(report.unused)} such tensors)"
        )
    nn.Module.to(model, device)
    return model.eval().requires_grad_(False)


def kind_of(model: dict[str, Any]) -> str:
    """Return the name of a configured model's class."""
    return model.get("class_path", "nothing").rsplit(".")[-1]


def build(config: dict[str, Any], checkpoint: Path | str, without: Collection[str] = TRAINING_ARGUMENTS) -> Any:
    """Return the model of a configuration with random weights, without some of its arguments: by default those only training needs."""
    kind = KINDS[kind_of(config)]
    config = config | {"init_args": {name: value for name, value in config["init_args"].items() if name not in without}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "model", required=True)
    try:
        return parser.instantiate_classes(parser.parse_object({"model": config}))["model"]
    except ArgumentError as error:
        raise ValueError(f"the {CONFIG} of {checkpoint}: {user_error(error)}") from error


def find_checkpoint(path: Path) -> Path:
    """Return ``path``, or the last checkpoint if it is the folder of a run.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is a sharded checkpoint.
    """
    check_is_file(path)
    checkpoint = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    check_is_file(checkpoint)
    if not checkpoint.is_file():
        raise FileNotFoundError(f"there is no checkpoint {checkpoint}")
    return checkpoint


def read_config(checkpoint: Path, kinds: Sequence[str] = ("LitVideoAR",)) -> dict[str, Any]:
    """Return the configuration of a checkpoint: the ``fit.yaml`` beside it or in the folder above, or the JSON of exported weights.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If its model is not of one of these kinds, or it uses names of an earlier version.
    """
    if checkpoint.suffix == ".safetensors":
        about, path = read_about(checkpoint), checkpoint
        config: dict[str, Any] = {"model": about["model"], "data": {"init_args": {"clip": about["clip"]}}}
    else:
        folders = (checkpoint.parent, checkpoint.parent.parent)
        path = next((folder / CONFIG for folder in folders if (folder / CONFIG).is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{checkpoint} needs the {CONFIG} of its run beside it or in the folder above, and there is none")
        config = yaml.safe_load(path.read_text())
    check_kind(config.get("model", {}), path, kinds)
    used = {name: value for name, value in config["model"].get("init_args", {}).items() if name not in TRAINING_ARGUMENTS}
    check_config({"init_args": used}, path, "model")
    return config


def check_kind(model: dict[str, Any], path: Path, kinds: Sequence[str]) -> None:
    kind = kind_of(model)
    if kind == "LitTokenizer" and kind not in kinds:
        raise ValueError(f"{path} trains a tokenizer, and only modules.LitVideoAR generates videos: use modules.load_tokenizer")
    if kind not in kinds:
        raise ValueError(f"{path} trains {model.get('class_path', 'nothing')}, which is none of modules.{', '.join(kinds)}")
