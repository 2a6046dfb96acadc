"""Weights of a transformer before training (our decision; the paper does not say)."""

from __future__ import annotations

from torch import nn


def initialise(transformer: nn.Module, layers: int, std: float = 0.02) -> None:
    """Normal matrices, zero biases; outputs of residual branches, called ``out``, smaller with depth; modulations at zero.

    Args:
        transformer: All of the model; a linear layer whose name ends in ``adaptive`` modulates norms.
        layers: Number of blocks.
        std: Standard deviation of the matrices.
    """
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.startswith("blocks.") and name.endswith(".out"):
                module.weight.data.div_((2 * layers) ** 0.5)
            if name.endswith("adaptive"):
                nn.init.zeros_(module.weight)
