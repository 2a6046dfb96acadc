"""Text condition from precomputed features of a frozen encoder, read from a file: the encoder is not loaded in training or sampling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.storage.text_features import EncoderIdentity, FeatureCache
from modules.transformer.condition import Condition, Prompt, as_bytes, from_bytes, masked_mean


class FeatureCondition(Condition):
    """One text per clip as its cached features, normalised and projected (our decision).

    The ids of a clip are the index of its text in the cache, repeated for every token of the text, then -1: an integer tensor as with other
    conditions, valid for this cache only. Texts shorter than ``length`` are padded with a learned vector, as in ``TextCondition``;
    the pooled vector is the mean of the text's own tokens. A clip without a text has no condition.

    The identity of the encoder is stored with the weights, the features are not: sampling needs a cache of its prompts.

    Args:
        width: Width of the transformer (given by it).
        features: Path of the cache, made by ``python -m scripts.encode_texts``.
        length: Maximum tokens of a text, ``P``; a warning gives the number of longer texts in the cache, which are truncated.

    Raises:
        ValueError: If the cache cannot be read, or ``length`` is below 1.
    """

    def __init__(self, width: int, features: str, length: int = 64) -> None:
        super().__init__(length)
        if length < 1:
            raise ValueError(f"condition.length must be at least 1 token, got {length}")
        self.cache = FeatureCache(features)
        self.norm = nn.RMSNorm(self.cache.width, eps=1e-6)
        self.project = nn.Linear(self.cache.width, width)
        self.null = nn.Parameter(torch.randn(length, width) * 0.02)
        self.padding = nn.Parameter(torch.randn(width) * 0.02)
        self._has_texts = False
        self._warn_of_long_texts()

    def forward(self, ids: Tensor) -> Prompt:
        own = (ids >= 0)[..., None]
        absent = ~own[:, :1]
        tokens = torch.where(own, self.project(self.norm(self._features(ids))), self.padding)
        tokens = torch.where(absent, self.null, tokens)
        return Prompt(tokens, masked_mean(tokens, own | absent))

    def learn_names(self, names: Sequence[str], captions: Sequence[str]) -> None:
        """Check that the cache has all captions.

        Raises:
            ValueError: If a caption is missing, or there are no captions.
        """
        if not captions and not self._has_texts:
            raise ValueError("the data has no captions, which a text condition needs")
        self.cache.numbers_of(captions)
        self._has_texts = True

    def of_batch(self, labels: Tensor, captions: Sequence[str]) -> Tensor:
        """
        Raises:
            ValueError: If the cache lacks a text.
        """
        return self.of_texts(captions).to(labels.device)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """
        Raises:
            ValueError: If the cache lacks a text.
        """
        numbers = iter(self.cache.numbers_of([text for text in texts if text]))
        ids = torch.full((len(texts), self.length), -1)
        for row, text in zip(ids, texts, strict=True):
            if text:
                number = next(numbers)
                row[: self.cache.lengths[number]] = number
        return ids

    def get_extra_state(self) -> Tensor:
        return as_bytes({"encoder": self.cache.encoder.name, "sha256": self.cache.encoder.sha256})

    def set_extra_state(self, state: Tensor) -> None:
        """
        Raises:
            ValueError: If the weights were trained with features of another encoder than the cache's.
        """
        found = from_bytes(state)
        if not isinstance(found, dict):
            raise ValueError("the weights were trained with another kind of condition, not with text features")
        encoder = EncoderIdentity(found["encoder"], found["sha256"])
        if encoder.sha256 != self.cache.encoder.sha256:
            raise ValueError(f"the weights were trained with features of {encoder}, {self.cache.path} has features of {self.cache.encoder}")
        self._has_texts = True

    def _features(self, ids: Tensor) -> Tensor:
        """Return ``(B, P, D)`` features on the device of the weights; zeros where there are none."""
        features = torch.zeros(*ids.shape, self.cache.width, dtype=torch.bfloat16)
        for row, number in zip(features, ids[:, 0].tolist(), strict=True):
            if number >= 0:
                found = self.cache.features(number)[: self.length]
                row[: len(found)] = found
        return features.to(self.null.device).to(self.null.dtype)  # in this order, half as many bytes are copied to the device

    def _warn_of_long_texts(self) -> None:
        """Warn once about all texts of the cache that are too long, instead of once per batch."""
        lengths = self.cache.lengths
        if (longer := int((lengths > self.length).sum())) > 0:
            longest = self.cache.texts[int(lengths.argmax())]
            warnings.warn(
                f"{longer} of {len(lengths)} texts in {self.cache.path} exceed {self.length} tokens and are truncated; the longest, "
                f"{longest[:60]!r}, has {int(lengths.max())}",
                stacklevel=2,
            )
