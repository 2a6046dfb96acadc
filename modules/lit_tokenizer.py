"""LightningModule of the tokenizer, for images (clips of one frame) and for video."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from modules.batch import EncodingBatch, FileChunk, VideoBatch
from modules.metrics import ReconstructionScores
from modules.pixels import check_unit, to_uint8, to_unit
from modules.tokenizer import (
    AdversarialLoss,
    PerceptualLoss,
    Quantized,
    StreamedReconstruction,
    TokenizerLoss,
    VideoTokenizer,
    winograd_convolutions,
)
from modules.training.guarded_step import GuardedStep
from modules.training.optim import WarmupCosine
from modules.training.seeding import seed_step
from modules.training.start_steps import check_start_step
from modules.training.tokenizer_checks import check_tokenizer_run


class LitTokenizer(LightningModule):
    """Trains a :class:`modules.tokenizer.VideoTokenizer` (paper 4.1).

    Training on images and on video differs only in the data's ``clip.frames`` and the tokenizer's ``temporal_factor``; ``--init_from``
    connects the two runs. ``max_steps`` and schedules count the tokenizer's steps, not those of the discriminators.

    Args:
        tokenizer: The network.
        loss: Weights of the loss terms.
        perceptual: Perceptual loss; without it its weight is 0.
        adversarial: Discriminators and adversarial loss; none if not given.
        scale_dropping: Probability of dropping each scale but the last in a training step (Infinity's recipe: 0.5).
        optimizer: Called with the tokenizer's parameters.
        discriminator_optimizer: Called with the discriminators' parameters (Infinity's recipe: twice the tokenizer's learning rate).
        warmup_steps: Steps until the peak learning rate, followed by a cosine to zero at ``trainer.max_steps``.
        gradient_clip: Maximum gradient norm, applied to tokenizer and discriminators separately; 0 disables clipping.
        patience: Number of consecutive steps skipped for non-finite gradients that ends the run.
    """

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        loss: TokenizerLoss = TokenizerLoss(),  # noqa: B008
        perceptual: PerceptualLoss | None = None,
        adversarial: AdversarialLoss | None = None,
        scale_dropping: float = 0.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        discriminator_optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_steps: int = 0,
        gradient_clip: float = 1.0,
        patience: int = 20,
    ) -> None:
        super().__init__()
        if not 0.0 <= scale_dropping <= 1.0:
            raise ValueError(f"scale_dropping must be within 0 and 1, got {scale_dropping}")
        self.automatic_optimization = False
        self.tokenizer, self.loss, self.perceptual, self.scale_dropping = tokenizer, loss, perceptual, scale_dropping
        self.adversary = adversarial  # named as in existing checkpoints
        self.optimizer, self.discriminator_optimizer, self.warmup_steps = optimizer, discriminator_optimizer, warmup_steps
        self.tokenizer_step = GuardedStep(0, gradient_clip, patience)
        self.discriminator_step = GuardedStep(1, gradient_clip, patience)
        self.weights_source: str | None = None
        self._range_checked = False

    def setup(self, stage: str) -> None:
        """Reject invalid combinations before any data is read."""
        check_tokenizer_run(self.trainer, stage, adversarial=self.adversary is not None)
        if stage == "predict":
            return
        if stage == "fit" and self.adversary is not None:
            check_start_step("model.adversarial.start_step", self.adversary.start_step, self.trainer.max_steps)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        # Held-out clips have one size; training clips may not.
        self.scores = self._new_scores(self.tokenizer.layout(data.clip).pyramid.scales)
        for clip in data.train_clips if stage == "fit" else ():
            self.tokenizer.layout(clip)

    def configure_optimizers(self) -> list[dict[str, Any]]:
        """Return the tokenizer's optimizer and that of the discriminators, if any, each with its schedule."""
        optimizers = [self.optimizer(self.tokenizer.parameters())]
        if self.adversary is not None:
            optimizers.append(self.discriminator_optimizer(self.adversary.parameters()))
        return [
            {"optimizer": optimizer, "lr_scheduler": WarmupCosine(optimizer, self.warmup_steps, self.trainer.max_steps)}
            for optimizer in optimizers
        ]

    def on_fit_start(self) -> None:
        if self.perceptual is None and self.loss.perceptual:
            rank_zero_info(
                "no perceptual loss, its weight is 0: give --model.perceptual PerceptualLoss --model.perceptual.backbone FILE "
                "with VGG16's weights in torchvision's layout"
            )
        elif self.perceptual is not None and not self.loss.perceptual:
            rank_zero_warn("the perceptual loss is not used: its weight model.loss.perceptual is 0")

    def on_train_batch_start(self, batch: VideoBatch, batch_index: int) -> None:
        seed_step(self.global_rank, self.global_step)

    def training_step(self, batch: VideoBatch, batch_index: int) -> None:
        video, clips = self._training_pixels(batch), batch["index"].tolist()
        adversary = self.adversary if self.adversary is not None and self.adversary.active(self.global_step) else None
        result = self.tokenizer(video, drop=self.scale_dropping)
        terms = self.loss(result, video, self.perceptual)
        if adversary is not None:
            generator_loss = adversary.generator_loss(result.video)
            terms["loss"] = terms["loss"] + adversary.weight_at(self.global_step) * generator_loss
            terms["adversarial"] = generator_loss.detach()
        terms["gradient_norm"], applied = self.tokenizer_step(self, self.tokenizer, terms["loss"], clips)
        if applied and adversary is not None:
            losses = adversary.discriminator_loss(video, result.video)
            losses["gradient_norm"], _ = self.discriminator_step(self, adversary, losses["loss"], clips)
            terms |= {f"discriminator/{name}": value.detach() for name, value in losses.items()}
        if applied and self._is_logged():
            self._log_training_scores(video, result.video, result.quantized)
        self._log_terms(terms)

    def validation_step(self, batch: VideoBatch, batch_index: int) -> None:
        self._update_scores(batch)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: VideoBatch, batch_index: int) -> dict[str, Any]:
        """Return ``videos`` for the report: original and reconstructed clips, uint8."""
        video = self._update_scores(batch)
        if self.perceptual is not None:
            lpips = self.perceptual(to_unit(video), to_unit(batch["video"]))
            self.log("test/lpips_vgg", lpips, batch_size=len(video), sync_dist=True)
        return {"videos": {"real": to_uint8(batch["video"]), "reconstructed": video}}

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def predict_step(self, batch: FileChunk | EncodingBatch, batch_index: int) -> dict[str, Tensor]:
        """Return ``latent`` ``(B, d, t, h, w)`` of clips, or ``real`` and ``reconstructed`` frames of a file, ``(1, 3, n, H, W)`` uint8.

        Frames are returned as soon as they are complete, see :class:`modules.tokenizer.StreamedReconstruction`.
        """
        if "file" not in batch:
            return {"latent": self.tokenizer.encode_for_tokens(to_unit(batch["video"]))}
        if batch["first"]:
            self._stream = StreamedReconstruction(self.tokenizer)
        real, reconstructed = self._stream.push(batch["video"], batch["last"])
        return {"real": real, "reconstructed": reconstructed}

    def preview(self, batch: VideoBatch) -> dict[str, Tensor]:
        """Original and reconstructed clips, uint8 ``(B, 3, T, H, W)``."""
        return {"real": to_uint8(batch["video"]), "reconstructed": self.reconstruct(batch)}

    def reconstruct(self, batch: VideoBatch) -> Tensor:
        """Return the clips of a batch through the bits, uint8 ``(B, 3, T, H, W)``."""
        return self._reconstruct(batch)[0]

    @torch.no_grad()
    def _reconstruct(self, batch: VideoBatch) -> tuple[Tensor, Quantized]:
        """Reconstruct the clips of a batch; return uint8 video and the quantised latent, whose bits are computed in float32."""
        quantized = self.tokenizer.quantize(self.tokenizer.encode_for_tokens(to_unit(batch["video"])))
        with winograd_convolutions():
            return to_uint8(self.tokenizer.decode(quantized.latent)), quantized

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = [self.tokenizer_step.skipped, self.discriminator_step.skipped]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.tokenizer_step.skipped, self.discriminator_step.skipped = checkpoint.get("skipped_steps", [0, 0])

    def on_train_end(self) -> None:
        if self.tokenizer_step.skipped or self.discriminator_step.skipped:
            rank_zero_warn(
                f"steps with non-finite gradients were skipped: {self.tokenizer_step.skipped} of the tokenizer, "
                f"{self.discriminator_step.skipped} of the discriminators"
            )

    def _training_pixels(self, batch: VideoBatch) -> Tensor:
        """Video of a batch in [-1, 1]; the range of the first batch of a run is checked."""
        video = to_unit(batch["video"])
        if not self._range_checked:
            check_unit(video)
            self._range_checked = True
        return video

    def _is_logged(self) -> bool:
        """True if Lightning passes the values of this step to the loggers."""
        return (self.trainer.fit_loop.total_batch_idx + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def _log_terms(self, terms: dict[str, Tensor]) -> None:
        self.log("loss", terms["loss"], prog_bar=True, logger=False)
        skipped = {"skipped_steps": self.tokenizer_step.skipped, "discriminator/skipped_steps": self.discriminator_step.skipped}
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        self.log_dict({f"train/{name}": float(value) for name, value in skipped.items()})

    def _log_training_scores(self, video: Tensor, reconstructed: Tensor, quantized: Quantized) -> None:
        scores = self._new_scores(len(quantized.bits)).to(self.device)
        scores.update(to_uint8(reconstructed), to_uint8(video), quantized.bits, quantized.residual_energy)
        self.log_dict({f"train/{name}": value for name, value in scores.collect().items()})

    def _new_scores(self, scales: int) -> ReconstructionScores:
        return ReconstructionScores(self.tokenizer.shape.temporal_factor, scales, self.tokenizer.bits)

    def _update_scores(self, batch: VideoBatch) -> Tensor:
        """Reconstruct a batch, add it to the scores and return the reconstruction."""
        video, quantized = self._reconstruct(batch)
        self.scores.update(video, to_uint8(batch["video"]), quantized.bits, quantized.residual_energy)
        return video

    def _log_scores(self, stage: str) -> None:
        for name, value in self.scores.collect().items():
            # Already equal on all processes; sync_dist only avoids a warning by Lightning.
            self.log(f"{stage}/{name}", value, prog_bar=name in ("psnr", "ssim"), sync_dist=True)
