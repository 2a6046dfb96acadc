"""Check of the Lightning precisions that a model with a tokenizer supports."""

from __future__ import annotations


def check_precision(precision: str, allowed: tuple[str, ...]) -> None:
    """Raise ``ValueError`` for a precision that rounds the tokenizer's weights, which changes its bits."""
    if precision not in allowed:
        raise ValueError(
            f"--trainer.precision must be one of {', '.join(allowed)}, not {precision}: half-precision weights change the tokenizer's bits"
        )
