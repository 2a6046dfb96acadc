"""When bits are flipped: the progressive flip ratio (paper 4.2, Eq. 8)."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning import Callback, LightningModule, Trainer

from modules.autoregression.corruption import MAX_RATIO, Corrupts


class FlipRatios(NamedTuple):
    """The range of flip ratios at the first latent frame, and its rise from frame to frame."""

    p_min: float
    p_max: float
    delta: float


class FlipRatioSchedule(Callback):
    """Sets the model's flip ratios for every step.

    Frame ``t`` draws its ratios from ``U(p_min + delta t, p_max + delta t)``, so later frames learn from a worse history, as they have
    it in sampling. The paper uses the same values from the first step on; a warm-up lets them rise from zero.

    Args:
        p_min: Lower end of the ratio at the first latent frame.
        p_max: Upper end of the ratio at the first latent frame.
        delta: By how much both ends rise from one latent frame to the next.
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
        """The ratios at an optimizer step."""
        share = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        return FlipRatios(*(share * final for final in self.final))

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
    """The module, known to corrupt bits.

    Raises:
        TypeError: If it does not.
    """
    if not isinstance(pl_module, Corrupts):
        raise TypeError(f"{type(callback).__name__} needs a model with a `corruption`; {type(pl_module).__name__} has none")
    return pl_module
