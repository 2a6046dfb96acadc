"""Checks of a tokenizer run before any data is read."""

from __future__ import annotations

from lightning import Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.strategies import DDPStrategy

from modules.training.precision import check_precision


def check_tokenizer_run(trainer: Trainer, stage: str, *, adversarial: bool) -> None:
    """Raise ``ValueError`` if a tokenizer does not support the precision, data, callbacks or strategy.

    Args:
        trainer: The trainer, with its datamodule attached.
        stage: Lightning's stage: "fit", "validate", "test" or "predict".
        adversarial: True if discriminators are trained.
    """
    check_precision(trainer.precision, ("32-true", "bf16-mixed"))
    data = trainer.datamodule  # type: ignore[attr-defined]
    kind = type(data).__name__
    if getattr(data, "encoded", False):
        raise ValueError(f"a tokenizer needs video, and {kind} has latents")
    if stage == "predict" and not hasattr(data, "files"):
        writers = [each for each in trainer.callbacks if isinstance(each, BasePredictionWriter)]  # type: ignore[attr-defined]
        if not (writers and hasattr(data, "dataset")):
            raise ValueError(
                f"a tokenizer reconstructs video files, which {kind} does not have: add -c configs/reconstruct.yaml; "
                "or it encodes clips for training: add -c configs/encode_latents.yaml"
            )
    strategy = trainer.strategy
    alternating = stage == "fit" and adversarial
    if alternating and isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
        raise ValueError("tokenizer and discriminators alternate: use --trainer.strategy ddp_find_unused_parameters_true")
