"""A sampling run inside the transformer: what was computed once, and what has been decoded so far."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.transformer.block import Modulation
from modules.transformer.cache import KVCache
from modules.transformer.plan import Plan
from modules.transformer.sequence import TokenSequence


@dataclass
class Decoding:
    """The sequence being decoded, the condition's modulation, the cache, and the block ``(n,)`` of every token in the cache."""

    sequence: TokenSequence
    plan: Plan
    modulation: Modulation | None
    cache: KVCache
    held: Tensor

    def join(self, span: slice) -> Tensor:
        """Count the tokens of a block among those held; returns which of them it may attend to, ``(1, held)`` bool."""
        block = self.plan.block[span]
        self.held = torch.cat([self.held, block])
        return self.plan.visible[block[:1], self.held]

    def drop_frame(self, frame: int) -> None:
        """Go back to what was held before the scales of a frame, which later frames will see by its history block only."""
        length = self.sequence.prompt_length + frame * self.sequence.history_tokens
        self.cache.truncate(length)
        self.held = self.held[:length]
