"""Roofline of a transformer pass: its matrix products and attentions alone, recorded and repeated with nothing around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.transformer import Execution, VideoARTransformer

ATTENTION = "modules.transformer.attention.attention.F.scaled_dot_product_attention"


@dataclass
class Product:
    """A linear layer with one of its inputs.

    Attributes:
        weight: ``(out, in)``.
        bias: ``(out,)`` or None.
        value: ``(..., in)``.
    """

    weight: Tensor
    bias: Tensor | None
    value: Tensor

    @property
    def operands(self) -> list[Tensor]:
        return [self.value, self.weight] + ([] if self.bias is None else [self.bias])

    @property
    def flops(self) -> int:
        """Operations of the forward pass, two per multiplication."""
        return 2 * self.value.numel() * len(self.weight)

    def __call__(self) -> Tensor:
        return F.linear(self.value, self.weight, self.bias)


@dataclass
class Attention:
    """A scaled dot-product attention with its operands.

    Attributes:
        query: ``(B, heads, n, head_dim)``.
        key: ``(B, heads, m, head_dim)``.
        value: As ``key``.
        mask: ``(n, m)`` or ``(B, 1, n, m)`` bool, or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None

    @property
    def operands(self) -> list[Tensor]:
        return [self.query, self.key, self.value]

    @property
    def flops(self) -> int:
        """Operations of the forward pass, for unmasked pairs."""
        visible = 1.0 if self.mask is None else self.mask.float().mean().item()
        return round(4 * self.query.numel() * self.key.shape[2] * visible)

    def __call__(self) -> Tensor:
        return F.scaled_dot_product_attention(self.query, self.key, self.value, attn_mask=self.mask)


Call = Product | Attention


@contextmanager
def recorded(model: VideoARTransformer) -> Iterator[list[Call]]:
    """Record every linear layer and attention of the passes of ``model``, in order, with random operands of the same sizes.

    The model runs with default execution options meanwhile: calls within a replayed CUDA graph or FlexAttention cannot be observed, and
    their products are the same.
    """
    found: list[Call] = []
    weights: dict[nn.Module, Tensor] = {}  # converted once per layer
    plain = F.scaled_dot_product_attention

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        found.append(Attention(torch.randn_like(query), torch.randn_like(key), torch.randn_like(value), attn_mask))
        return plain(query, key, value, attn_mask=attn_mask)

    def linear(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        # Under autocast the product has the output's dtype, not the weight's.
        if layer not in weights:
            weights[layer] = layer.weight.detach().to(output.dtype)
        bias = None if layer.bias is None else layer.bias.detach().to(output.dtype)
        found.append(Product(weights[layer], bias, torch.randn(inputs[0].shape, device=output.device).to(output.dtype)))

    hooks = [layer.register_forward_hook(linear) for layer in model.modules() if isinstance(layer, nn.Linear)]
    execution, model.execution = model.execution, Execution()
    try:
        with patch(ATTENTION, attention):
            yield found
    finally:
        model.execution = execution
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def forward(calls: list[Call]) -> None:
    """Repeat all calls in order."""
    for call in calls:
        call()


def forward_and_backward(calls: list[Call]) -> None:
    """Repeat all calls in order, each followed by its gradients with respect to all operands."""
    for call in calls:
        operands = [operand.requires_grad_() for operand in call.operands]
        output = call()
        torch.autograd.grad(output, operands, torch.ones_like(output))
