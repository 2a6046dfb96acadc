"""Laws of remembering by bytes: many small things stay, what is too much goes in the order of its last use."""

from typing import NamedTuple

import torch
from torch import Tensor

from modules.transformer.attention.caching import bytes_of, lru_cache_by_bytes


class Pair(NamedTuple):
    left: Tensor
    right: Tensor | None


class Holder:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.name = tensor, "a text"


def test_bytes_are_those_of_all_tensors() -> None:
    tensor = torch.zeros(3, 5)
    assert bytes_of(tensor) == 60 and bytes_of(Pair(tensor, None)) == 60
    assert bytes_of(Pair(tensor, tensor.bool())) == 75 and bytes_of((Holder(tensor),)) == 60


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    made: list[int] = []

    @lru_cache_by_bytes(100)
    def make(size: int) -> Tensor:
        made.append(size)
        return torch.zeros(size, dtype=torch.bool)

    for _ in range(3):
        for size in range(1, 13):
            assert make(size) is make(size)
    assert made == list(range(1, 13))
    # 78 bytes are kept; of these the oldest have to go, and what has just been asked for stays.
    make(1)
    make(25)
    assert make(1) is make(1) and len(made) == 13
    make(2)
    assert made == [*range(1, 13), 25, 2]
    assert make(1000) is make(1000) and len(made) == 15
    make(1)
    assert made[-1] == 1
