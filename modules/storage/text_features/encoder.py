"""Texts to features with an encoder from Hugging Face's library, which is needed for nothing else and imported here only."""

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
    """What :mod:`scripts.encode_texts` fills a cache with.

    Attributes:
        identity: Which encoder it is.
        width: Numbers per token, ``D``.
        longest: Most tokens of a text; the encoder leaves out those that follow.
    """

    identity: EncoderIdentity
    width: int
    longest: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of every text, those that would be left out included."""
        ...

    def encode(self, texts: Sequence[str]) -> list[Tensor]:
        """``(n, D)`` floats per text, without padding."""
        ...


class HuggingFaceEncoder:
    """T5, or any other model of the library whose output has a ``last_hidden_state`` for texts.

    Weights are computed with in the type of their file. Code that comes with a model is never run.

    Args:
        name: A folder with the model and its tokenizer, or their name on the hub, from where they are downloaded.
        device: Such as "cuda".
        longest: Most tokens of a text.

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
            raise ValueError(f"no text encoder can be read from {name}: {error}") from error
        # Some decoders have no padding of their own; what is put there is masked and dropped.
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
    """An encoder by the content of its weight files and its vocabulary: a downloaded model and a copy of it are the same.

    Raises:
        ValueError: If there is no file of weights.
    """
    folder = Path(name)
    if not folder.is_dir():
        # Nothing is downloaded here: this finds where the library has put the files that it read.
        folder = Path(importlib.import_module("huggingface_hub").snapshot_download(name, local_files_only=True))
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise ValueError(f"{folder} has no .safetensors or .bin files of weights")
    whole = hashlib.sha256(json.dumps(sorted(vocabulary.items())).encode())
    for path in files:
        whole.update(bytes.fromhex(file_hash(path)))
    return EncoderIdentity(name, whole.hexdigest())


def _model_of(library: Any, name: str) -> Any:
    """The encoder alone where a model has a decoder too; raises ``ValueError`` if the files lack a part of it."""
    settings = {"dtype": "auto", "output_loading_info": True}
    try:
        model, found = library.AutoModelForTextEncoding.from_pretrained(name, **settings)
    except ValueError:  # the library's way to say that it has no encoder alone for this model
        model, found = library.AutoModel.from_pretrained(name, **settings)
    # The library would fill what is missing with random numbers; a pooler comes after what is used here.
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if missing:
        raise ValueError(f"its files lack {len(missing)} tensors, such as {missing[0]}")
    return model


def _library() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise ValueError(f"text encoders need more packages ({error}): python -m pip install -e '.[text]'") from error
