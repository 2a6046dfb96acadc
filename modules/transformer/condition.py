"""Conditioning on a class or a text: a few tokens before the video and a vector for the adaptive norms."""

from __future__ import annotations

import difflib
import json
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Prompt(NamedTuple):
    """A condition inside the network: ``tokens`` ``(B, P, C)`` and their mean ``pooled`` ``(B, C)``."""

    tokens: Tensor
    pooled: Tensor


class Condition(nn.Module, ABC):
    """Condition of a clip, given by ids; ``null`` ``(P, C)`` is a learned "no condition" for guidance.

    Args:
        length: Condition tokens per clip, ``P``.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    @abstractmethod
    def forward(self, ids: Tensor) -> Prompt:
        """Embed ``(B, P)`` ids; -1 in the first column of a row means "no condition"."""

    def nothing(self, clips: int, device: torch.device) -> Tensor:
        """Return the ids ``(clips, P)`` of "no condition"."""
        return torch.full((clips, self.length), -1, device=device)

    @abstractmethod
    def learn_names(self, names: Sequence[str], captions: Sequence[str]) -> None:
        """Register the class names or words of the training data before training; does nothing if they are already known."""

    @abstractmethod
    def of_batch(self, labels: Tensor, captions: Sequence[str]) -> Tensor:
        """Return the ids ``(B, P)`` of a training batch."""

    @abstractmethod
    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Return the ids ``(B, P)`` of class names or texts given by a user."""


class NamedCondition(Condition):
    """Learned embeddings of token ids.

    The names that the ids stand for (classes or words) are stored with the weights, so a checkpoint is self-contained.

    Args:
        width: Width of the transformer.
        rows: Number of embeddings.
        length: Condition tokens per clip, ``P``.
    """

    def __init__(self, width: int, rows: int, length: int) -> None:
        super().__init__(length)
        self.names = []
        self.embedding = nn.Embedding(rows, width)
        self.null = nn.Parameter(torch.randn(length, width) * 0.02)
        nn.init.normal_(self.embedding.weight, std=0.02)

    @property
    def names(self) -> list[str]:
        """Class names or words, in the order of their ids."""
        return list(self._places)

    @names.setter
    def names(self, names: Sequence[str]) -> None:
        # Stored as a dictionary, so that it is not rebuilt for every training batch.
        self._places = {name: place for place, name in enumerate(names)}

    def forward(self, ids: Tensor) -> Prompt:
        absent = ids[:, :1, None] < 0
        tokens = torch.where(absent, self.null.expand(len(ids), -1, -1), self.embedding(ids.clamp(min=0)))
        return Prompt(tokens, tokens.mean(dim=1))

    def get_extra_state(self) -> Tensor:
        return as_bytes(self.names)

    def set_extra_state(self, state: Tensor) -> None:
        self.names = from_bytes(state)


class ClassCondition(NamedCondition):
    """One class per clip.

    Args:
        width: Width of the transformer (given by it).
        factors: Number of classes; or, for classes that are products of attributes (digit x direction), the number of values of each
            attribute, the last one varying fastest in the class number. Every attribute then has its own token.
    """

    def __init__(self, width: int, factors: tuple[int, ...] = (101,)) -> None:
        super().__init__(width, rows=sum(factors), length=len(factors))
        self.factors = tuple(factors)

    @property
    def classes(self) -> int:
        return math.prod(self.factors)

    def learn_names(self, names: Sequence[str], captions: Sequence[str]) -> None:
        """
        Raises:
            ValueError: If the number of classes differs, or the weights were trained with other names.
        """
        if len(names) != self.classes:
            raise ValueError(f"the data has {len(names)} classes, the model's condition.factors {list(self.factors)} give {self.classes}")
        if self.names and list(names) != self.names:
            other = next((old, new) for old, new in zip(self.names, names, strict=True) if old != new)
            raise ValueError(f"the weights have class {other[0]!r} where the data has {other[1]!r}: the classes or their order differ")
        self.names = list(names)

    def of_batch(self, labels: Tensor, captions: Sequence[str]) -> Tensor:
        """
        Raises:
            ValueError: If a label is not one of the classes.
        """
        if labels.max() >= self.classes:
            raise ValueError(f"label {int(labels.max())} does not exist: the model has {self.classes} classes")
        ids, rest = [], labels.clamp(min=0)
        for factor, offset in zip(reversed(self.factors), reversed(self._offsets()), strict=True):
            ids.append(rest % factor + offset)
            rest = rest // factor
        return torch.stack(ids[::-1], dim=1).where(labels[:, None] >= 0, -1)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """
        Raises:
            ValueError: If a text is not a class name.
        """
        if not self.names:
            raise ValueError("the model has no class names: these are not the weights of a trained autoregressive model")
        for text in texts:
            if text not in self._places:
                close = difflib.get_close_matches(text, self.names, n=3) or self.names[:3]
                raise ValueError(f"unknown class {text!r}; the model has {len(self.names)} classes, such as {', '.join(close)}")
        return self.of_batch(torch.tensor([self._places[text] for text in texts]), texts)

    def _offsets(self) -> list[int]:
        return [sum(self.factors[:place]) for place in range(len(self.factors))]


class TextCondition(NamedCondition):
    """One text per clip as words with learned embeddings, padded to a fixed length (our decision).

    Args:
        width: Width of the transformer (given by it).
        vocabulary: Maximum number of words, the most frequent ones of the training captions.
        length: Number of words per text; longer texts are truncated with a warning.
    """

    PADDING, UNKNOWN, FIRST_WORD = 0, 1, 2

    def __init__(self, width: int, vocabulary: int = 4096, length: int = 16) -> None:
        super().__init__(width, rows=vocabulary + 2, length=length)
        self.vocabulary = vocabulary

    def forward(self, ids: Tensor) -> Prompt:
        """Return the tokens and the mean over the text's own words; padding would dominate the mean of a short text."""
        tokens = super().forward(ids).tokens
        counted = ((ids != self.PADDING) | (ids[:, :1] < 0))[..., None]
        return Prompt(tokens, masked_mean(tokens, counted))

    def learn_names(self, names: Sequence[str], captions: Sequence[str]) -> None:
        """Keep the vocabulary of the weights and add new words of ``captions`` until the vocabulary is full.

        Raises:
            ValueError: If there are no words at all.
        """
        counts = Counter(word for caption in captions for word in words(caption))
        if not counts and not self.names:
            raise ValueError("the data has no captions, which a text condition needs")
        known = set(self.names)
        new = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if word not in known]
        self.names = (self.names + new)[: self.vocabulary]

    def of_batch(self, labels: Tensor, captions: Sequence[str]) -> Tensor:
        return self._ids(captions).to(labels.device)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        unknown = sorted({word for text in texts for word in words(text)} - set(self.names))
        if unknown:
            warnings.warn(f"words that the model was not trained with: {', '.join(unknown)}", stacklevel=2)
        return self._ids(texts)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        rows = [[self._number(word) for word in words(text)] for text in texts]
        longest = max(rows, key=len, default=[])
        if len(longest) > self.length:
            warnings.warn(f"a text of {len(longest)} words was truncated to {self.length}", stacklevel=3)
        rows = [row[: self.length] or [-1] for row in rows]
        return torch.tensor([row + [self.PADDING] * (self.length - len(row)) for row in rows])

    def _number(self, word: str) -> int:
        return self.FIRST_WORD + self._places[word] if word in self._places else self.UNKNOWN


def masked_mean(tokens: Tensor, counted: Tensor) -> Tensor:
    """Mean ``(B, C)`` of the tokens ``(B, P, C)`` that are counted, ``(B, P, 1)`` bool, at least one per clip."""
    weights = counted.to(tokens.dtype)
    return (tokens * weights).sum(dim=1) / weights.sum(dim=1)


def words(text: str) -> list[str]:
    """Return the words and punctuation marks of a text, in lower case."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def as_bytes(value: Any) -> Tensor:
    """Return a JSON-serialisable value as a uint8 tensor, to be stored with weights."""
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def from_bytes(state: Tensor) -> Any:
    """Return the value passed to :func:`as_bytes`."""
    return json.loads(bytes(state.tolist()).decode())
