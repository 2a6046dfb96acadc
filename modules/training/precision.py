"""Check of the Lightning precisions that a model with a tokenizer supports."""

from __future__ import annotations


def check_precision(precision: str, allowed: tuple[str, ...]) -> None:
    """Raises ``ValueError`` for a precision in which the tokenizer's weights are rounded, which changes bits."""
    if precision not in allowed:
        raise ValueError(
            f"--trainer.precision must be one of {', '.join(allowed)}, not {precision}: half weights change the tokenizer's bits"
        )
