"""Training of the tokenizer, on pictures (clips of one frame) and on video with the same code."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from modules.batch import VideoBatch
from modules.metrics import FrameQuality
from modules.optim import WarmupCosine
from modules.pixels import to_uint8, to_unit
from modules.tokenizer import Quantized, TokenizerLoss, VideoTokenizer


class LitTokenizer(LightningModule):
    """Trains a :class:`modules.tokenizer.VideoTokenizer`.

    A run on pictures and a run on video differ in the data's ``clip.frames`` and in the tokenizer's ``temporal_factor`` only;
    ``--init_from`` joins them.

    Args:
        tokenizer: The network.
        loss: Weights of the loss terms.
        optimizer: Called with the parameters.
        warmup_steps: Steps until the peak learning rate; after it a cosine runs to zero at ``trainer.max_steps``.
    """

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        loss: TokenizerLoss = TokenizerLoss(),  # noqa: B008
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.loss = loss
        self.optimizer, self.warmup_steps = optimizer, warmup_steps
        self.quality = FrameQuality()
        self.weights_source: str | None = None

    def setup(self, stage: str) -> None:
        """Refuse clips the tokenizer cannot hold before anything is read."""
        self.tokenizer.layout(self.trainer.datamodule.clip)  # type: ignore[attr-defined]

    def training_step(self, batch: VideoBatch, batch_index: int) -> Tensor:
        video = to_unit(batch["video"])
        result = self.tokenizer(video)
        terms = self.loss(result, video)
        self.log_dict({f"train/{name}": term for name, term in terms.items()})
        self.log_dict({f"train/{name}": term for name, term in bit_health(result.quantized).items()})
        self.log("loss", terms["loss"], prog_bar=True, logger=False)
        return terms["loss"]

    def validation_step(self, batch: VideoBatch, batch_index: int) -> None:
        self._measure(batch)

    def test_step(self, batch: VideoBatch, batch_index: int) -> dict[str, Any]:
        """Returns ``videos`` for the report: the clips as they are and reconstructed, uint8."""
        return {"videos": {"real": batch["video"], "reconstructed": self._measure(batch)}}

    def preview(self, batch: VideoBatch) -> dict[str, Tensor]:
        """Clips before and after the bits, uint8 ``(B, 3, T, H, W)``."""
        return {"real": batch["video"], "reconstructed": self.reconstruct(batch["video"])}

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """uint8 video through the bits and back."""
        return to_uint8(self.tokenizer(to_unit(video)).video)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer(self.tokenizer.parameters())
        scheduler = WarmupCosine(optimizer, self.warmup_steps, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_validation_epoch_end(self) -> None:
        self._log_quality("val")

    def on_test_epoch_end(self) -> None:
        self._log_quality("test")

    def _measure(self, batch: VideoBatch) -> Tensor:
        reconstruction = self.reconstruct(batch["video"])
        self.quality.update(reconstruction, batch["video"])
        return reconstruction

    def _log_quality(self, stage: str) -> None:
        self.log_dict({f"{stage}/{name}": value for name, value in self.quality.compute().items()}, prog_bar=True)
        self.quality.reset()


def bit_health(quantized: Quantized) -> dict[str, Tensor]:
    """Share of ones of the least balanced bit, and dead bits (ones below 1 % or above 99 %), over all scales of a batch."""
    shares = torch.stack([bits.float().flatten(0, -2).mean(dim=0) for bits in quantized.bits])
    off_balance = (shares - 0.5).abs()
    return {"bits/worst_imbalance": off_balance.max(), "bits/dead": (off_balance > 0.49).float().sum()}
