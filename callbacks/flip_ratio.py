"""Schedule of the progressive flip ratio (paper 4.2, Eq. 8)."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from lightning import Callback, LightningModule, Trainer

from modules.autoregression.corruption import BitCorruption, Corrupts
from modules.training.start_steps import check_start_step

Ramp = Literal["none", "linear", "cosine"]


class FlipRatios(NamedTuple):
    """Range of flip ratios at the first latent frame, and how far its ends rise per latent frame."""

    p_min: float
    p_max: float
    delta: float
    delta_min: float


class FlipRatioSchedule(Callback):
    """Flip ratios of the training bits as a function of the optimizer step.

    Latent frame ``t`` draws its ratios from ``U(p_min + delta_min t, p_max + delta t)``: later frames learn from a worse history, as they
    meet in sampling. The paper uses the final values from the first step on; a ramp raises them from zero (our addition).

    The model's own corruption must be left at zero: this callback sets it.

    Args:
        p_min: Lower end of the ratio at the first latent frame, 0 to 0.5.
        p_max: Upper end of the ratio at the first latent frame, 0 to 0.5 (paper: 0.25).
        delta: Rise of the upper end per latent frame (paper: 0.01).
        delta_min: Rise of the lower end per latent frame; ``delta`` if not given (Eq. 8). 0 keeps the lower end at ``p_min``, as Fig. 3
            of the paper draws it.
        ramp: Rise over the steps from ``start_step`` to ``end_step``, by a straight line or half a cosine; "none" has the final values
            from ``start_step`` on (paper).
        start_step: Optimizer step before which no bit is flipped.
        end_step: Optimizer step from which the ratios are final; only with a ramp.

    Raises:
        ValueError: If not ``0 <= p_min <= p_max <= 0.5``, if a rise is negative or ``delta_min`` above ``delta``, or if the steps do not
            fit the ramp.
    """

    def __init__(
        self,
        p_min: float = 0.0,
        p_max: float = 0.25,
        delta: float = 0.01,
        delta_min: float | None = None,
        ramp: Ramp = "none",
        start_step: int = 0,
        end_step: int | None = None,
    ) -> None:
        BitCorruption(p_min, p_max, delta, delta_min=delta_min)  # checks the values
        check_ramp(ramp, start_step, end_step)
        self.final = FlipRatios(p_min, p_max, delta, delta if delta_min is None else delta_min)
        self.ramp, self.start_step, self.end_step = ramp, start_step, end_step

    def value(self, step: int) -> FlipRatios:
        """Ratios at an optimizer step."""
        fraction = self.fraction(step)
        return FlipRatios(*(fraction * final for final in self.final))

    def fraction(self, step: int) -> float:
        """Fraction of the final values at an optimizer step, 0 to 1."""
        if self.end_step is None:
            return float(step >= self.start_step)
        progress = min(1.0, max(0.0, (step - self.start_step) / (self.end_step - self.start_step)))
        return 0.5 - 0.5 * math.cos(math.pi * progress) if self.ramp == "cosine" else progress

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raises ``TypeError`` if the model has no corruption, ``ValueError`` if its flip ratios are set elsewhere or start too late."""
        if stage != "fit":
            return
        require_only_one(FlipRatioSchedule, trainer)
        corruption = require_corruption(self, pl_module).corruption
        check_start_step("flip_ratio.start_step", self.start_step, trainer.max_steps)
        if corruption.p_max or corruption.delta:
            raise ValueError(
                f"the flip ratios are set twice: model.corruption has p_max {corruption.p_max:g} and delta {corruption.delta:g}, and the "
                f"callback {type(self).__name__} sets its own. Give --flip_ratio.p_max alone, or --flip_ratio null"
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the corruption as it was found."""
        if stage == "fit" and isinstance(pl_module, Corrupts):
            pl_module.corruption.set_ratios(0.0, 0.0, 0.0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        ratios = self.value(trainer.global_step)
        require_corruption(self, pl_module).corruption.set_ratios(*ratios)
        pl_module.log_dict({f"train/flip_ratio/{name}": value for name, value in ratios._asdict().items()})


def check_ramp(ramp: Ramp, start_step: int, end_step: int | None) -> None:
    """Raise ``ValueError`` if the steps do not fit the ramp."""
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, got {start_step}")
    if ramp == "none" and end_step is not None:
        raise ValueError(f"end_step {end_step} needs a ramp: give ramp linear or cosine")
    if ramp != "none" and (end_step is None or end_step <= start_step):
        raise ValueError(f"a {ramp} ramp needs an end_step after its start_step {start_step}, got {end_step}")


def require_corruption(callback: Callback, pl_module: LightningModule) -> Corrupts:
    """Return the module, typed as one that corrupts bits.

    Raises:
        TypeError: If it has no ``corruption``.
    """
    if not isinstance(pl_module, Corrupts):
        raise TypeError(f"{type(callback).__name__} needs a model with a `corruption`; {type(pl_module).__name__} has none")
    return pl_module


def require_only_one(kind: type[Callback], trainer: Trainer) -> None:
    """Raise ``ValueError`` if the trainer has several callbacks of this kind, which would overwrite what each other sets."""
    found = [each for each in trainer.callbacks if isinstance(each, kind)]  # type: ignore[attr-defined]
    if len(found) > 1:
        raise ValueError(f"{len(found)} callbacks {kind.__name__} would overwrite each other: give one")
