"""Text features of a frozen encoder in a file, without padding, read text by text, each checked against its hash.

A cache is a safetensors file with ``offsets`` ``(N + 1,)`` int64, ``features`` ``(offsets[-1], D)`` bfloat16 (the tokens of all texts,
concatenated), ``texts`` (their JSON list as bytes), ``digests`` ``(N, 32)`` (SHA-256 of every text's features) and ``seal`` (SHA-256 of
everything except the features); its metadata name the encoder. Opening reads the index only, and damage is detected on opening or use.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from modules.storage.checksums import digest_of, raw, seal_of

FORMAT = "text features 1"


@dataclass(frozen=True)
class EncoderIdentity:
    """Identity of a text encoder.

    Args:
        name: Name for messages.
        sha256: Hash of its weights and vocabulary, in hexadecimal.
    """

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} (sha256 {self.sha256[:12]})"


class FeatureCache:
    """File of text features, open for reading. Texts and lengths are in memory, features stay on the disk.

    Attributes:
        path: The file.
        encoder: Encoder of the features.
        width: Feature size ``D`` of a token.
        texts: The texts, by index.
        lengths: ``(N,)`` int64, tokens of every text, all at least 1.

    Args:
        path: File that :func:`modules.storage.text_features.write_cache` wrote.

    Raises:
        ValueError: If there is no such file, it has another format, or its index is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"there is no file {path} (relative paths start at {Path.cwd()}); make it with python -m scripts.encode_texts")
        try:
            self._file = safe_open(self.path, framework="pt")
            metadata = self._file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} has no text features")
            offsets, texts, self._digests, seal = map(self._file.get_tensor, ("offsets", "texts", "digests", "seal"))
            self.width = self._file.get_slice("features").get_shape()[1]
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or not a file of text features: {error}") from error
        if seal_of(metadata, self.width, (offsets, texts, self._digests)) != raw(seal):
            raise ValueError(f"{path} is damaged: its index does not match its checksum")
        self.encoder = EncoderIdentity(metadata["encoder"], metadata["sha256"])
        self.texts: list[str] = json.loads(raw(texts))
        self.lengths = offsets.diff()
        self._offsets = offsets.tolist()
        self._indices = {text: index for index, text in enumerate(self.texts)}

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path]]:
        # Open files cannot be pickled; copies of a model and other processes open them again.
        return FeatureCache, (self.path,)

    def __len__(self) -> int:
        return len(self.texts)

    def numbers_of(self, texts: Sequence[str]) -> list[int]:
        """Return the indices of some texts; raises ``ValueError`` if the cache lacks one."""
        missing = [text for text in texts if text not in self._indices]
        if missing:
            raise ValueError(f"{self.path} lacks {len(missing)} of {len(texts)} texts, such as {missing[0]!r}: add them with encode_texts")
        return [self._indices[text] for text in texts]

    def features_of(self, texts: Sequence[str]) -> list[Tensor]:
        """Return ``(n, D)`` bfloat16 per text; raises like :meth:`numbers_of` and :meth:`features`."""
        return [self.features(number) for number in self.numbers_of(texts)]

    def features(self, number: int) -> Tensor:
        """Return the features of text ``number``, ``(n, D)`` bfloat16; raises ``ValueError`` if they are damaged."""
        features = self._file.get_slice("features")[self._offsets[number] : self._offsets[number + 1]]
        if digest_of(features) != raw(self._digests[number]):
            raise ValueError(f"{self.path} is damaged: the features of {self.texts[number]!r} do not match their checksum")
        return features
