"""Random state that depends only on seed, process and step, so that a resumed run draws the same random numbers."""

import os
import random

import torch


def seed_step(rank: int, step: int, part: int = 0) -> None:
    """Seed torch for one training step of one process; ``part`` is the index of the batch within an accumulated step."""
    key = f"{os.environ.get('PL_GLOBAL_SEED', 0)}/{rank}/{step}/{part}"
    torch.manual_seed(random.Random(key).getrandbits(63))
