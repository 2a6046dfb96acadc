"""Makes a finished run a model that people can exchange: weights in one safetensors file and a JSON beside it, without the optimiser.

``python -m scripts.export runs/mine/4 --out model.safetensors``. The file goes with ``--init_from``, and with ``modules.load``, or
``modules.load_tokenizer`` if it is a tokenizer.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from modules.geometry import Clip
from modules.loading import build, find_checkpoint, kind_of, read_config
from modules.storage.exported import FORMAT, about_path, check_names
from modules.storage.tensor_file import open_tensors, save_tensors
from modules.tokenizer.inflation import inflate_state_dict
from modules.user_errors import user_error

log = logging.getLogger(__name__)

Which = Literal["averaged", "raw"]
# What of a model is given away: arguments of its class, and networks.
ARCHITECTURE = {"LitVideoAR": ("tokenizer", "transformer", "sampler", "long_video"), "LitTokenizer": ("tokenizer",)}
NETWORKS = ("tokenizer", "transformer")
ENVIRONMENT = "fit.environment.json"  # what the callback SaveRunConfig leaves in a run's folder


def export(run: Path, out: Path, which: Which | None = None) -> dict[str, Any]:
    """Write a model's weights and what they are.

    Args:
        run: The run's folder, or a checkpoint in it.
        out: The file of weights; the JSON has the same name.
        which: Averaged or raw weights, for a run with ``EMAWeightAveraging``; averaged if there are any.

    Returns:
        What the JSON says.

    Raises:
        FileNotFoundError: If there is no checkpoint, or no ``fit.yaml`` in its folder or one above it.
        ValueError: If ``out`` is no ``.safetensors``, the run is of another model than ours, or its weights do not fit its configuration
            exactly.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"weights go into a .safetensors file, not {out}")
    checkpoint = find_checkpoint(run)
    config, content = read_config(checkpoint, tuple(ARCHITECTURE)), open_tensors(checkpoint)
    name, settings = kind_of(config["model"]), config["model"]["init_args"]
    model = {"class_path": f"modules.{name}", "init_args": {part: settings[part] for part in ARCHITECTURE[name] if settings.get(part)}}
    check_names(model, about_path(out))
    weights, kind = choose(content, which, checkpoint)
    # Critics and the network of the perceptual loss stay behind.
    weights = {tensor: value for tensor, value in weights.items() if tensor.partition(".")[0] in NETWORKS}
    about = describe(model, Clip(**config["data"]["init_args"]["clip"]), weights, checkpoint)
    about["origin"] |= {"weights": kind, "step": content.get("global_step"), "commit": _commit(checkpoint)}
    out.parent.mkdir(parents=True, exist_ok=True)
    about["sha256"] = save_tensors(weights, out)
    unfinished = about_path(out).with_suffix(".json.part")
    unfinished.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, about_path(out))
    return about


def choose(content: Mapping[str, Any], which: Which | None, checkpoint: Path) -> tuple[dict[str, Tensor], Which]:
    """The weights to export, and whether they are averaged.

    Lightning keeps the averaged ones of ``EMAWeightAveraging`` as ``state_dict`` and the raw ones as ``current_model_state``.
    """
    averaged = "current_model_state" in content
    if which == "averaged" and not averaged:
        raise ValueError(f"{checkpoint} has no averaged weights: its run had no EMAWeightAveraging, or was saved after its end")
    kind = which or ("averaged" if averaged else "raw")
    key = "current_model_state" if averaged and kind == "raw" else "state_dict"
    if key not in content:
        raise ValueError(f"{checkpoint} is not the checkpoint of a run")
    return content[key], kind


def describe(model: dict[str, Any], clip: Clip, weights: Mapping[str, Tensor], checkpoint: Path) -> dict[str, Any]:
    """Everything about a model but its values.

    Raises:
        ValueError: If the weights are not exactly those of the model.
    """
    with torch.device("meta"):
        network = build(model, checkpoint)
    own = network.state_dict()
    try:
        inflated = inflate_state_dict(own, weights).inflated
    except ValueError as error:
        raise ValueError(f"{checkpoint} does not fit its configuration: {error}") from error
    if others := [*inflated, *sorted(set(weights) - set(own))]:
        raise ValueError(f"{checkpoint} does not fit its configuration: the model has no such {others[0]} ({len(others)} such tensors)")
    tokenizer = network.tokenizer
    layout = tokenizer.layout(clip)
    return {
        "format": FORMAT,
        "model": model,
        "clip": {"frames": clip.frames, "height": clip.height, "width": clip.width, "fps": clip.fps},
        "scales": [list(size) for size in layout.pyramid.sizes],
        "latent_frames": layout.frames,
        "preprocessing": {
            "video": "RGB as (B, 3, T, H, W), uint8 value v as v / 127.5 - 1",
            "frames": f"1 + {tokenizer.shape.temporal_factor} n",
            "height_and_width": f"multiples of {tokenizer.shape.spatial_factor}",
        },
        "parameters": {
            part: sum(value.numel() for value in whole.parameters()) for part, whole in network.named_children() if part in NETWORKS
        },
        "tokenizer_sha256": tokenizer.fingerprint(
            {name.removeprefix("tokenizer."): value for name, value in weights.items() if name.startswith("tokenizer.")}
        ),
        "origin": {name: version(name) for name in ("torch", "lightning")},
    }


def _commit(checkpoint: Path) -> str | None:
    """The commit that the run says it was made with."""
    places = (folder / ENVIRONMENT for folder in (checkpoint.parent, checkpoint.parent.parent))
    found = next((place for place in places if place.is_file()), None)
    return None if found is None else json.loads(found.read_text())["commit"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Makes a finished run one file of weights and a JSON, for --init_from and modules.load.")
    parser.add_argument("run", type=Path, help="the run's folder, or a checkpoint in it")
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors file; a .json of the same name goes beside it")
    parser.add_argument("--weights", choices=("averaged", "raw"), help="of a run with EMAWeightAveraging; averaged if not given")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        about = export(given.run, given.out, given.weights)
    except Exception as error:
        if (text := user_error(error)) is None:
            raise
        sys.exit(f"error: {text}")
    source, size = find_checkpoint(given.run), given.out.stat().st_size
    share = size / source.stat().st_size
    log.info(
        f"{given.out}: {about['origin']['weights']} weights of step {about['origin']['step']}, {size / 1e6:.1f} MB, {share:.0%} of {source}"
    )
    log.info(f"{about_path(given.out)}: architecture, scales, preprocessing and checksums")


if __name__ == "__main__":
    main()
