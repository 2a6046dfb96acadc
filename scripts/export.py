"""Export of a finished run as a model to share: weights in one safetensors file and a JSON beside it, without the optimizer.

``python -m scripts.export runs/mine/4 --out model.safetensors``. The file goes with ``--init_from``, and with ``modules.load``, or
``modules.load_tokenizer`` if it is a tokenizer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from modules.geometry import Clip
from modules.loading import build, find_checkpoint, kind_of, read_config
from modules.storage.atomic_files import write_text
from modules.storage.exported import FORMAT, about_path, check_names
from modules.storage.tensor_file import open_tensors, save_tensors
from modules.tokenizer.inflation import inflate_state_dict
from scripts.cli import run

log = logging.getLogger(__name__)

Kind = Literal["averaged", "raw"]
# Exported parts of a model: arguments of its class, and networks.
ARCHITECTURE = {"LitVideoAR": ("tokenizer", "transformer", "sampler", "long_video"), "LitTokenizer": ("tokenizer",)}
NETWORKS = ("tokenizer", "transformer")
ENVIRONMENT = "fit.environment.json"  # written to a run's folder by the callback SaveRunConfig


def export(run: Path, *, out: Path, weights: Kind | None = None) -> dict[str, Any]:
    """Export a finished run as one file of weights and a JSON, for ``--init_from`` and ``modules.load``.

    Args:
        run: The run's folder, or a checkpoint in it.
        out: The ``.safetensors`` file; a ``.json`` of the same name is written beside it.
        weights: Averaged or raw weights of a run with ``EMAWeightAveraging``; averaged by default.

    Returns:
        The content of the JSON.

    Raises:
        FileNotFoundError: If there is no checkpoint, or no ``fit.yaml`` in its folder or the one above.
        ValueError: If ``out`` is not a ``.safetensors`` file, the run trains another kind of model, or its weights do not fit its
            configuration exactly.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"weights are written to a .safetensors file, not to {out}")
    checkpoint = find_checkpoint(run)
    config, content = read_config(checkpoint, tuple(ARCHITECTURE)), open_tensors(checkpoint)
    name, settings = kind_of(config["model"]), config["model"]["init_args"]
    model = {"class_path": f"modules.{name}", "init_args": {part: settings[part] for part in ARCHITECTURE[name] if settings.get(part)}}
    check_names(model, about_path(out))
    tensors, kind = choose(content, weights, checkpoint)
    # Discriminators and the network of the perceptual loss are not exported.
    tensors = {tensor: value for tensor, value in tensors.items() if tensor.partition(".")[0] in NETWORKS}
    about = describe(model, Clip(**config["data"]["init_args"]["clip"]), tensors, checkpoint)
    about["origin"] |= {"weights": kind, "step": content.get("global_step"), "commit": _commit(checkpoint)}
    about["sha256"] = save_tensors(tensors, out)
    write_text(about_path(out), json.dumps(about, indent=1) + "\n")
    size, whole = out.stat().st_size, checkpoint.stat().st_size
    log.info(f"{out}: {kind} weights of step {about['origin']['step']}, {size / 1e6:.1f} MB, {size / whole:.0%} of {checkpoint}")
    log.info(f"{about_path(out)}: architecture, scales, preprocessing and checksums")
    return about


def choose(content: Mapping[str, Any], given: Kind | None, checkpoint: Path) -> tuple[dict[str, Tensor], Kind]:
    """The weights to export, and whether they are averaged.

    Lightning keeps the averaged ones of ``EMAWeightAveraging`` as ``state_dict`` and the raw ones as ``current_model_state``.
    """
    averaged = "current_model_state" in content
    if given == "averaged" and not averaged:
        raise ValueError(f"{checkpoint} has no averaged weights: its run had no EMAWeightAveraging, or was saved after its end")
    kind = given or ("averaged" if averaged else "raw")
    key = "current_model_state" if averaged and kind == "raw" else "state_dict"
    if key not in content:
        raise ValueError(f"{checkpoint} is not the checkpoint of a run")
    return content[key], kind


def describe(model: dict[str, Any], clip: Clip, weights: Mapping[str, Tensor], checkpoint: Path) -> dict[str, Any]:
    """Description of a model without its weights.

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
    """Commit that the run recorded."""
    places = (folder / ENVIRONMENT for folder in (checkpoint.parent, checkpoint.parent.parent))
    found = next((place for place in places if place.is_file()), None)
    return None if found is None else json.loads(found.read_text())["commit"]


if __name__ == "__main__":
    run(export)
