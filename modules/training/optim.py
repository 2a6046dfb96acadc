"""Parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def decay_groups(module: nn.Module) -> list[dict[str, object]]:
    """Return two parameter groups: matrices with weight decay; vectors, embeddings, modulation and null tokens without."""
    embeddings = {id(child.weight) for child in module.modules() if isinstance(child, nn.Embedding)}
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    matrices = [p for name, p in trained if p.ndim >= 2 and id(p) not in embeddings and not name.endswith(("modulation", "null"))]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for _, parameter in trained if id(parameter) not in chosen]
    return [{"params": matrices}, {"params": others, "weight_decay": 0.0}]


class WarmupCosine(LambdaLR):
    """Linear warm-up from 0, then cosine decay to ``final_share`` of the peak at the last step.

    Args:
        optimizer: Optimizer, whose learning rates are the peak.
        warmup_steps: Steps until the peak; 0 starts at the peak.
        steps: Total number of steps, ``trainer.max_steps``; if below 1, the rate stays at the peak after the warm-up.
        final_share: Final rate as a fraction of the peak.
    """

    def __init__(self, optimizer: Optimizer, warmup_steps: int, steps: int, final_share: float = 0.0) -> None:
        def share(step: int) -> float:
            if step < warmup_steps:
                return (step + 1) / (warmup_steps + 1)
            if steps < 1:
                return 1.0
            done = min(1.0, (step - warmup_steps) / max(1, steps - warmup_steps))
            return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * done))

        super().__init__(optimizer, share)
