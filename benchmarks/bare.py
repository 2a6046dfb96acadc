"""The matrix products and attentions that a pass of a transformer asks for, to be repeated with nothing around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION = "modules.transformer.attention.attention.F.scaled_dot_product_attention"


@dataclass
class Product:
    """A linear layer at the size of one of its inputs.

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
        """Of the forward pass: two per multiplication."""
        return 2 * self.value.numel() * len(self.weight)

    def __call__(self) -> Tensor:
        return F.linear(self.value, self.weight, self.bias)


@dataclass
class Look:
    """An attention.

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
        """Of the forward pass, for the pairs that see each other."""
        seen = 1.0 if self.mask is None else self.mask.float().mean().item()
        return round(4 * self.query.numel() * self.key.shape[2] * seen)

    def __call__(self) -> Tensor:
        return F.scaled_dot_product_attention(self.query, self.key, self.value, attn_mask=self.mask)


Call = Product | Look


@contextmanager
def recorded(model: nn.Module) -> Iterator[list[Call]]:
    """Collects every linear layer and attention that passes of ``model`` ask for, in order, with random operands of the same sizes.

    A layer with weights of 8 bits counts as the product of its inputs' type, without the conversion.
    """
    found: list[Call] = []
    weights: dict[nn.Module, Tensor] = {}  # converted once, however often a layer is called
    plain = F.scaled_dot_product_attention

    def look(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        found.append(Look(torch.randn_like(query), torch.randn_like(key), torch.randn_like(value), attn_mask))
        return plain(query, key, value, attn_mask=attn_mask)

    def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        # Under autocast the product is one of the output's type, not of the weight's.
        if layer not in weights:
            weights[layer] = layer.weight.detach().to(output.dtype)
        bias = None if layer.bias is None else layer.bias.detach().to(output.dtype)
        found.append(Product(weights[layer], bias, torch.randn(inputs[0].shape, device=output.device).to(output.dtype)))

    hooks = [layer.register_forward_hook(note) for layer in model.modules() if isinstance(layer, nn.Linear)]
    with patch(ATTENTION, look):
        yield found
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def forward(calls: list[Call]) -> None:
    """All of them, one after the other."""
    for call in calls:
        call()


def forward_and_backward(calls: list[Call]) -> None:
    """All of them, each followed by its gradients with respect to all operands."""
    for call in calls:
        operands = [operand.requires_grad_() for operand in call.operands]
        output = call()
        torch.autograd.grad(output, operands, torch.ones_like(output))
