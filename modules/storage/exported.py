"""Format of exported models: ``NAME.safetensors`` with the weights and ``NAME.json`` with everything else needed for generation.

Unlike the ``fit.yaml`` of a run, the JSON may come from an untrusted source: it can name only classes of this project.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from modules.storage.tensor_file import file_metadata, metadata_with

FORMAT = "videoar 1"


def about_path(weights: Path) -> Path:
    """Return the path of the JSON that belongs to a file of weights."""
    return weights.with_suffix(".json")


def read_about(weights: Path) -> dict[str, Any]:
    """Return the content of the JSON beside exported weights.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it has another format, belongs to other weights, or names anything but classes of this project.
    """
    path = about_path(weights)
    if not path.is_file():
        raise FileNotFoundError(f"{weights} needs {path.name} beside it, which describes its architecture, and there is none")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"{path} has the format {about['format']!r}, this version reads {FORMAT!r}")
        expected = about["sha256"], about["model"]["class_path"], about["clip"]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not describe exported weights: {type(error).__name__} {error}") from error
    if metadata_with(expected[0]) != file_metadata(weights):
        raise ValueError(f"{path} describes other weights than those in {weights}: the checksums differ")
    check_names(about["model"], path)
    return about


def check_names(value: Any, path: Path, key: str = "") -> None:
    """Refuse settings that would import anything but classes of this project.

    Raises:
        ValueError: For the first such setting.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            check_names(inner, path, str(name))
    elif isinstance(value, list):
        for inner in value:
            check_names(inner, path, key)
    elif isinstance(value, str):
        harmless = r"modules\.[\w.]+" if key == "class_path" else r"[\w-]*|.*\.safetensors"
        if not re.fullmatch(harmless, value):
            raise ValueError(f"{path} names {value!r} as {key}: an exported JSON may name only classes of modules")
