"""Rank and world size of this process."""

from __future__ import annotations

from torch import distributed


def rank_and_world_size() -> tuple[int, int]:
    """Return the rank of this process and the number of processes.

    Call it when the values are needed: loaders may be constructed before the process group is initialised.
    """
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
