"""Self-attention with rotary positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from modules.transformer.attention.kv_cache import KVCache
from modules.transformer.rope import rotate

# Maps queries, keys and values (B, heads, n, head_dim) to the queries' shape; applies the visibility mask.
AttentionFn = Callable[[Tensor, Tensor, Tensor], Tensor]


class Dense(NamedTuple):
    """PyTorch's scaled dot-product attention with a mask ``(n, m)`` or ``(B, 1, n, m)`` bool; None: every token sees every token."""

    mask: Tensor | None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask)


class BlockContext(NamedTuple):
    """Inputs of a block besides the tokens: rotary factors, attention function, modulation of the norms by the condition ``(B, 6, C)``
    (None: no modulation), and the KV cache in decoding."""

    cosines: Tensor
    sines: Tensor
    attend: AttentionFn
    modulation: Tensor | None
    cache: KVCache | None = None


class Attention(nn.Module):
    """Multi-head self-attention without biases; queries and keys are RMS-normalised per head (our decision)."""

    def __init__(self, width: int, heads: int, layer: int) -> None:
        super().__init__()
        self.heads, self.layer = heads, layer
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, hidden: Tensor, context: BlockContext) -> Tensor:
        """Map ``(B, n, C)`` to the same shape."""
        query, key, value = rearrange(self.qkv(hidden), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        query = rotate(self.query_norm(query), context.cosines, context.sines).type_as(value)
        key = rotate(self.key_norm(key), context.cosines, context.sines).type_as(value)
        if context.cache is not None:
            key, value = context.cache.append(self.layer, key, value)
        return self.out(rearrange(context.attend(query, key, value), "b h n d -> b n (h d)"))
