"""Key-value cache of the tokens decoded so far; each sampling run has its own and passes it to the transformer."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Preallocated keys and values of all layers.

    Args:
        layers: Number of transformer layers.
        capacity: Maximum number of tokens.
        shape: ``(B, heads, head_dim)``.
        like: Tensor with the device and dtype of the cache.
    """

    def __init__(self, layers: int, capacity: int, shape: tuple[int, int, int], like: Tensor) -> None:
        batch, heads, head_dim = shape
        self.keys = like.new_empty(layers, batch, heads, capacity, head_dim)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``(B, heads, n, head_dim)`` of one layer after its first ``length`` tokens; return all tokens of that layer.

        :meth:`advance` increases ``length`` once per step, after every layer has stored its keys and values.

        Raises:
            ValueError: If the cache is full.
        """
        end = self.length + keys.shape[2]
        if end > self.keys.shape[3]:
            raise ValueError(f"the cache has a capacity of {self.keys.shape[3]} tokens, {end} are needed")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Increase ``length`` by the number of tokens that every layer has stored in this step."""
        self.length += tokens

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy ``tokens`` tokens from position ``source`` to position ``target``, overwriting those there."""
        for held in (self.keys, self.values):
            held[..., target : target + tokens, :] = held[..., source : source + tokens, :]

    def truncate(self, tokens: int) -> None:
        """Keep only the first ``tokens`` tokens."""
        self.length = tokens
