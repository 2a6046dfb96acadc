"""Text encoders of Hugging Face's transformers library, which is imported here only, when it is needed."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor

from modules.storage.checksums import file_hash
from modules.storage.text_features import EncoderIdentity


class TextEncoder(Protocol):
    """Encoder as :mod:`scripts.encode_texts` uses it.

    Attributes:
        identity: Identity of the encoder.
        width: Feature size ``D`` of a token.
        longest: Maximum number of tokens of a text; later tokens are cut off.
    """

    identity: EncoderIdentity
    width: int
    longest: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of every text before it is cut."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the features of every text without padding, ``(n, D)`` floats."""
        ...


class HuggingFaceEncoder:
    """T5, or any other model of the library whose output for texts has a ``last_hidden_state``.

    Weights keep the dtype of their file. Custom code of a model is never run.

    Args:
        name: Folder with the model and its tokenizer, or their name on the hub, from which they are downloaded.
        device: Device, such as "cuda".
        longest: Maximum number of tokens of a text.

    Raises:
        ValueError: If the library is not installed or cannot read the model, or ``longest`` is below 1.
    """

    def __init__(self, name: str, device: str = "cpu", longest: int = 512) -> None:
        if longest < 1:
            raise ValueError(f"longest must be at least 1 token, got {longest}")
        library = _library()
        try:
            self._tokenizer = library.AutoTokenizer.from_pretrained(name)
            self._model = _model_of(library, name).eval().to(device)
        except (OSError, ValueError, ImportError, UnpicklingError) as error:
            raise ValueError(f"cannot read a text encoder from {name}: {error}") from error
        # Some decoders define no padding token. The padding is masked and dropped.
        self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"
        self.identity = identify(name, self._tokenizer.get_vocab())
        self.width, self.longest, self.device = int(self._model.config.hidden_size), longest, device

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(tokens) for tokens in self._tokenizer(list(texts), verbose=False)["input_ids"]]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        tokens = self._tokenizer(list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt").to(self.device)
        hidden = self._model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        return [features[mask.bool()] for features, mask in zip(hidden, tokens["attention_mask"], strict=True)]


def identify(name: str, vocabulary: dict[str, int]) -> EncoderIdentity:
    """Return the identity of an encoder from its weight files and vocabulary, equal for a downloaded model and a copy of it.

    Raises:
        ValueError: If there is no weight file.
    """
    folder = Path(name)
    if not folder.is_dir():
        # Downloads nothing, and returns the local folder of the files that were read.
        folder = Path(importlib.import_module("huggingface_hub").snapshot_download(name, local_files_only=True))
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise ValueError(f"{folder} has no weight files (.safetensors or .bin)")
    whole = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode())
    for path in files:
        whole.update(bytes.fromhex(file_hash(path)))
    return EncoderIdentity(name, whole.hexdigest())


def _model_of(library: Any, name: str) -> Any:
    """Load a model, without its decoder if it has an encoder; raises ``ValueError`` if tensors are missing in its files."""
    settings = {"dtype": "auto", "output_loading_info": True}
    try:
        model, found = library.AutoModelForTextEncoding.from_pretrained(name, **settings)
    except ValueError:  # the library has no encoder-only class for this model
        model, found = library.AutoModel.from_pretrained(name, **settings)
    # The library initialises missing tensors randomly. A pooler is not used here.
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if missing:
        raise ValueError(f"its files lack {len(missing)} tensors, such as {missing[0]}")
    return model


def _library() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(f"text encoders need more packages ({error}): python -m pip install -e '.[text]'") from error
