"""Functions that remember what they made, up to a number of bytes: a few large things, or many small ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from threading import Lock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable)


def lru_cache_by_bytes(max_bytes: int) -> Callable[[Function], Function]:
    """A decorator for functions of hashable arguments, given by place; what was asked for longest ago is forgotten first.

    Args:
        max_bytes: Bytes of tensors to keep; the latest result is kept whatever its size.
    """

    def decorate(function: Function) -> Function:
        kept: OrderedDict[tuple[Hashable, ...], tuple[Any, int]] = OrderedDict()
        lock = Lock()

        @wraps(function)
        def call(*arguments: Hashable) -> Any:
            with lock:
                if arguments not in kept:
                    made = function(*arguments)
                    kept[arguments] = made, bytes_of(made)
                    while len(kept) > 1 and sum(size for _, size in kept.values()) > max_bytes:
                        kept.popitem(last=False)
                kept.move_to_end(arguments)
                return kept[arguments][0]

        return cast(Function, call)

    return decorate


def bytes_of(value: Any) -> int:
    """Bytes of all tensors in a value: in a tuple, or among an object's attributes."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value if isinstance(value, tuple) else vars(value).values() if hasattr(value, "__dict__") and not callable(value) else ()
    return sum(map(bytes_of, parts))


def outside_graphs(function: Function) -> Function:
    """A function that compilation does not look into: traced, it would be part of the graph and computed at every step."""
    return cast(Function, torch.compiler.disable(function))
