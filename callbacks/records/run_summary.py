"""What a training really does, said before its first step."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info


class PrintRunSummary(Callback):
    """Prints whether a run begins, starts from other weights or goes on, its learning rates, its batch, and where its files go.

    A continued run keeps the learning rate of its checkpoint whatever the command line says, so what is printed is what the optimizer has.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rank_zero_info("\n".join(lines(trainer, pl_module)))


def lines(trainer: Trainer, pl_module: LightningModule) -> list[str]:
    source = getattr(pl_module, "weights_source", None)
    if trainer.ckpt_path:
        start = f"goes on at step {trainer.global_step} from {trainer.ckpt_path}"
    else:
        start = f"begins with the weights of {source}" if source else "begins with random weights"
    data = trainer.datamodule  # type: ignore[attr-defined]
    batch = getattr(data, "batch_size", None)
    found = [f"training {type(pl_module).__name__}: {start}; until step {trainer.max_steps}"]
    for number, optimizer in enumerate(trainer.optimizers):
        now = sorted({group["lr"] for group in optimizer.param_groups})
        peak = sorted({group.get("initial_lr", group["lr"]) for group in optimizer.param_groups})
        found.append(f"  optimizer {number}: {type(optimizer).__name__}, learning rate {_text(now)} at this step, peak {_text(peak)}")
    if batch is not None:
        clips = batch * trainer.accumulate_grad_batches * trainer.world_size
        parts = f"{batch} x {trainer.accumulate_grad_batches} batches x {trainer.world_size} processes"
        found.append(f"  {clips} clips per step ({parts}) of {getattr(data, 'clip', '?')}; precision {trainer.precision}")
    found.append(f"  files go to {trainer.default_root_dir}")
    return found


def _text(rates: list[float]) -> str:
    return ", ".join(f"{rate:.3g}" for rate in rates)
