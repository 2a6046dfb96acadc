"""Summary of a training, printed before its first step."""

from __future__ import annotations

from collections.abc import Iterable

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info


class PrintRunSummary(Callback):
    """Prints how a run starts (new, from other weights, or resumed), its learning rates, its batch, and its output folder.

    A resumed run keeps the learning rate of its checkpoint whatever the command line says, so the printed rate is that of the optimizer.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank_zero_info("\n".join(summary_lines(trainer, pl_module)))


def summary_lines(trainer: Trainer, pl_module: LightningModule) -> list[str]:
    """Return the summary, a line per topic."""
    source = getattr(pl_module, "weights_source", None)
    if trainer.ckpt_path:
        start = f"resumes at step {trainer.global_step} from {trainer.ckpt_path}"
    else:
        start = f"starts from the weights of {source}" if source else "starts from random weights"
    data = trainer.datamodule  # type: ignore[attr-defined]
    batch = getattr(data, "batch_size", None)
    lines = [f"training {type(pl_module).__name__}: {start}; until step {trainer.max_steps}"]
    for number, optimizer in enumerate(trainer.optimizers):
        current = _text(group["lr"] for group in optimizer.param_groups)
        peak = _text(group.get("initial_lr", group["lr"]) for group in optimizer.param_groups)
        lines.append(f"  optimizer {number}: {type(optimizer).__name__}, learning rate {current} at this step, peak {peak}")
    if batch is not None:
        clips = batch * trainer.accumulate_grad_batches * trainer.world_size
        parts = f"{batch} x {trainer.accumulate_grad_batches} batches x {trainer.world_size} processes"
        lines.append(f"  {clips} clips per step ({parts}) of {getattr(data, 'clip', '?')}; precision {trainer.precision}")
    return [*lines, f"  output folder {trainer.default_root_dir}"]


def _text(rates: Iterable[float]) -> str:
    return ", ".join(f"{rate:.3g}" for rate in sorted(set(rates)))
