"""Check of settings that start at a later step."""

from __future__ import annotations


def check_start_step(name: str, start_step: int, max_steps: int) -> None:
    """Raise ``ValueError`` if something would start after the last step of the run; ``max_steps`` -1 is a run without an end."""
    if 0 <= max_steps <= start_step:
        raise ValueError(f"{name} is {start_step}, and the run ends at trainer.max_steps {max_steps}: it would never start")
