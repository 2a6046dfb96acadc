"""FlexAttention: training attention on CUDA that looks visibility up by blocks and never builds a dense mask.

Nothing of it is imported or compiled before it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Function = TypeVar("Function", bound=Callable)

TILE = 128  # tokens on a side of the tiles that the kernel skips or takes whole; its own default


def not_compiled(function: Function) -> Function:
    """:func:`torch.compiler.disable` that keeps the type of the function."""
    return cast(Function, torch.compiler.disable(function))


class Flex(NamedTuple):
    """Attention under a mask of tiles."""

    mask: BlockMask

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``(B, heads, N, head_dim)`` each, to the same shape. On a CPU it is slow and has no gradient; for tests."""
        return _kernel(query.is_cuda and not torch.compiler.is_compiling())(query, key, value, block_mask=self.mask)


@cache
def _kernel(compiled: bool) -> Callable[..., Any]:
    """Compiled for every layout anew, as layouts are few; inside of a larger compiled graph it must not be compiled by itself."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention


@not_compiled
def make_flex(visible: Tensor, block: Tensor) -> Flex:
    """Attention over tokens of the given blocks.

    Args:
        visible: ``(S, S)`` or ``(B, S, S)`` bool, which block may attend to which.
        block: ``(N,)`` block of every token.
    """
    from torch.nn.attention.flex_attention import BlockMask

    partial, whole = tiles(visible.view(-1, *visible.shape[-2:]), block)
    length = len(block)
    mask = BlockMask.from_kv_blocks(
        *_in_order(partial), *_in_order(whole), BLOCK_SIZE=TILE, mask_mod=look_up(visible, block), seq_lengths=(length, length)
    )
    return Flex(mask)


def look_up(visible: Tensor, block: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The rule for single tokens: a function of clip, head, query token and key token (indices that broadcast) to bool."""

    def same_for_all_clips(clip: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible[block[query], block[key]]

    def by_clip(clip: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible[clip, block[query], block[key]]

    return same_for_all_clips if visible.ndim == 2 else by_clip


def tiles(visible: Tensor, block: Tensor) -> tuple[Tensor, Tensor]:
    """Tiles to be looked up token by token, and tiles to be taken whole; the rest is skipped.

    Counted over blocks instead of tokens: which blocks does a tile's side hold, and which of their pairs are visible?

    Args:
        visible: ``(B, S, S)`` bool.
        block: ``(N,)`` block of every token.

    Returns:
        Two of ``(B, n, n)`` bool for ``n`` tiles, the last of which may reach beyond the tokens and then is not whole.
    """
    tile = torch.arange(len(block), device=block.device) // TILE
    count = -(-len(block) // TILE)
    holds = torch.zeros(count, visible.shape[-1], device=block.device)
    holds[tile, block] = 1.0
    some, barred = ((holds @ pairs.float() @ holds.T) > 0 for pairs in (visible, ~visible))
    filled = torch.arange(1, count + 1, device=block.device) * TILE <= len(block)
    whole = some & ~barred & filled[:, None] & filled[None, :]
    return some & ~whole, whole


def _in_order(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """``(B, n, n)`` bool to how many tiles a row has and which, those first: ``(B, 1, n)`` and ``(B, 1, n, n)`` int32."""
    indices = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(dim=-1, dtype=torch.int32)[:, None], indices.to(torch.int32)[:, None]
