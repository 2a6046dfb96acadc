"""Base of the callbacks that evaluate a model at the end of ``test``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sized
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.seed import isolate_rng

from modules.metrics import Evaluation


class EvaluationCallback(Callback, ABC):
    """Evaluates at the end of ``test``, logs and prints the values; :class:`callbacks.WriteReport` writes them to ``report.json``.

    Attributes:
        evaluation: The result of the last test.
    """

    evaluation: Evaluation | None = None

    @abstractmethod
    def evaluate(self, trainer: Trainer, pl_module: LightningModule) -> Evaluation:
        """Measure; called on every process, with equal results."""

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Random draws here must not change those made elsewhere.
        with isolate_rng(), trainer.precision_plugin.test_step_context():
            self.evaluation = self.evaluate(trainer, pl_module)
        logged = {f"evaluation/{each.metric}/{each.of}": each.value for each in self.evaluation.measurements}
        pl_module.log_dict(logged, sync_dist=True)  # equal on all processes; sync_dist avoids Lightning's warning
        rank_zero_info(self.evaluation.text())


def reference_clips(data: Any, split: str) -> Sized:
    """Return the clips of a split for comparison: cropped from the middle of their files, not at random.

    Raises:
        ValueError: If the data module has latents only.
    """
    if getattr(data, "encoded", False):
        raise ValueError(f"generated videos are compared with videos, but {type(data).__name__} has latents: evaluate with the clips")
    return getattr(data, "reference", data.dataset)(split)
