"""Keys and values of everything decoded so far, as an object that is passed in and belongs to one sampling run."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Preallocated keys and values of all layers.

    Args:
        layers: Number of transformer layers.
        capacity: Tokens it can hold.
        shape: ``(B, heads, head_dim)``.
        like: A tensor whose device and dtype are taken.
    """

    def __init__(self, layers: int, capacity: int, shape: tuple[int, int, int], like: Tensor) -> None:
        batch, heads, head_dim = shape
        self.keys = like.new_empty(layers, batch, heads, capacity, head_dim)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``(B, heads, n, head_dim)`` of one layer behind the ``length`` tokens held; returns all of that layer.

        The length moves once per step, by :meth:`advance`, when every layer has stored its part.

        Raises:
            ValueError: If the cache is full.
        """
        end = self.length + keys.shape[2]
        if end > self.keys.shape[3]:
            raise ValueError(f"the cache holds {self.keys.shape[3]} tokens, {end} were asked for")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, tokens: int) -> None:
        """Count the tokens that every layer has stored in this step."""
        self.length += tokens

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy ``tokens`` tokens from the place ``source`` over those at the place ``target``."""
        for held in (self.keys, self.values):
            held[..., target : target + tokens, :] = held[..., source : source + tokens, :]

    def truncate(self, tokens: int) -> None:
        """Keep the first ``tokens`` tokens only."""
        self.length = tokens
