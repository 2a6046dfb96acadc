"""Schedule of the progressive bit-flip ratio (paper 4.2, Eq. 8)."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning import Callback, LightningModule, Trainer

from modules.autoregression.corruption import MAX_RATIO, Corrupts


class FlipRatios(NamedTuple):
    """Range of flip ratios at the first latent frame, and its increase per latent frame."""

    p_min: float
    p_max: float
    delta: float


class FlipRatioSchedule(Callback):
    """Sets the model's flip ratios for every step.

    Frame ``t`` draws its ratios from ``U(p_min + delta t, p_max + delta t)``: later frames train on a more corrupted history, as they
    see in sampling. The paper keeps the values constant; with a warm-up they rise linearly from zero.

    Args:
        p_min: Lower end of the ratio at the first latent frame.
        p_max: Upper end of the ratio at the first latent frame.
        delta: Increase of both ends per latent frame.
        warmup_steps: Steps over which all three rise linearly from 0; 0 is the paper.

    Raises:
        ValueError: If not ``0 <= p_min <= p_max <= 0.5``, or ``delta`` or ``warmup_steps`` is negative.
    """

    def __init__(self, p_min: float = 0.0, p_max: float = 0.25, delta: float = 0.01, warmup_steps: int = 0) -> None:
        if not 0.0 <= p_min <= p_max <= MAX_RATIO:
            raise ValueError(f"flip ratios need 0 <= p_min <= p_max <= {MAX_RATIO}, got p_min {p_min} and p_max {p_max}")
        if delta < 0.0:
            raise ValueError(f"delta must not be negative, got {delta}")
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps must not be negative, got {warmup_steps}")
        self.final = FlipRatios(p_min, p_max, delta)
        self.warmup_steps = warmup_steps

    def value(self, step: int) -> FlipRatios:
        """Return the ratios at an optimizer step."""
        fraction = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return FlipRatios(*(fraction * final for final in self.final))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ``TypeError`` if the model has no corruption to schedule."""
        if stage == "fit":
            require_corruption(self, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        corruption = require_corruption(self, pl_module).corruption
        corruption.p_min, corruption.p_max, corruption.delta = self.value(trainer.global_step)
        for name in FlipRatios._fields:
            pl_module.log(f"train/flip_ratio/{name}", getattr(corruption, name))


def require_corruption(callback: Callback, pl_module: LightningModule) -> Corrupts:
    """Return the module, typed as one that corrupts bits.

    Raises:
        TypeError: If it has no ``corruption``.
    """
    if not isinstance(pl_module, Corrupts):
        raise TypeError(f"{type(callback).__name__} needs a model with a `corruption`; {type(pl_module).__name__} has none")
    return pl_module
