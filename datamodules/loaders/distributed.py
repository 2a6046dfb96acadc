"""Rank and world size of this process."""

from __future__ import annotations

from torch import distributed


def rank_and_world_size() -> tuple[int, int]:
    """Rank of this process and number of processes; asked when needed, as loaders may be made before the processes find each other."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
