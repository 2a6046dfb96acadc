"""Features of texts from a frozen encoder, in a file: every text at its own length, read one by one, each checked against its hash.

A cache is a safetensors file of ``offsets`` ``(N + 1,)`` int64, ``features`` ``(offsets[-1], D)`` bfloat16 with the texts one after the
other, ``texts`` (their JSON list as bytes), ``digests`` ``(N, 32)`` (a SHA-256 of every text's features) and ``seal`` (one of everything
but the features); its metadata say which encoder made it. So opening reads the index only, whatever the features weigh, and what is damaged
is refused when it is opened or used.
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
    """Which encoder made some features.

    Args:
        name: What it was called, for people.
        sha256: What tells it from all others, in hexadecimal.
    """

    name: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} (sha256 {self.sha256[:12]})"


class FeatureCache:
    """A file of text features, open for reading. Texts and lengths are in memory, features stay on the disc.

    Attributes:
        path: Where it is.
        encoder: Who made the features.
        width: Numbers per token, ``D``.
        texts: The texts, in the order of their numbers.
        lengths: ``(N,)`` int64, tokens of every text, all at least 1.

    Args:
        path: File that :func:`modules.storage.text_features.write_cache` made.

    Raises:
        ValueError: If there is no such file, it is none of ours, or its index is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"there is no file {path} (relative paths start at {Path.cwd()}); python -m scripts.encode_texts makes it")
        try:
            self._file = safe_open(self.path, framework="pt")
            metadata = self._file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} holds no text features")
            offsets, texts, self._digests, seal = map(self._file.get_tensor, ("offsets", "texts", "digests", "seal"))
            self.width = self._file.get_slice("features").get_shape()[1]
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no file of text features: {error}") from error
        if seal_of(metadata, self.width, (offsets, texts, self._digests)) != raw(seal):
            raise ValueError(f"{path} is damaged: its index is not the one that was written")
        self.encoder = EncoderIdentity(metadata["encoder"], metadata["sha256"])
        self.texts: list[str] = json.loads(raw(texts))
        self.lengths = offsets.diff()
        self._offsets = offsets.tolist()
        self._numbers = {text: number for number, text in enumerate(self.texts)}

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[Path]]:
        # An open file cannot be copied; copies of a model and other processes open it again.
        return FeatureCache, (self.path,)

    def __len__(self) -> int:
        return len(self.texts)

    def numbers_of(self, texts: Sequence[str]) -> list[int]:
        """The numbers of some texts.

        Raises:
            ValueError: If the cache lacks one.
        """
        missing = [text for text in texts if text not in self._numbers]
        if missing:
            raise ValueError(f"{self.path} lacks {len(missing)} of {len(texts)} texts, such as {missing[0]!r}: add them with encode_texts")
        return [self._numbers[text] for text in texts]

    def features_of(self, texts: Sequence[str]) -> list[Tensor]:
        """``(n, D)`` bfloat16 per text; raises like :meth:`numbers_of` and :meth:`features`."""
        return [self.features(number) for number in self.numbers_of(texts)]

    def features(self, number: int) -> Tensor:
        """``(n, D)`` bfloat16 of text ``number``.

        Raises:
            ValueError: If they are not those that were written.
        """
        features = self._file.get_slice("features")[self._offsets[number] : self._offsets[number + 1]]
        if digest_of(features) != raw(self._digests[number]):
            raise ValueError(f"{self.path} is damaged: the features of {self.texts[number]!r} are not those that were written")
        return features
