"""Training of the tokenizer, on pictures (clips of one frame) and on video with the same code."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from modules.batch import EncodingBatch, FileChunk, VideoBatch
from modules.metrics import ReconstructionScores
from modules.pixels import check_unit, to_uint8, to_unit
from modules.tokenizer import (
    AdversarialLoss,
    PerceptualLoss,
    Quantized,
    Reconstruction,
    StreamedReconstruction,
    TokenizerLoss,
    VideoTokenizer,
    winograd_convolutions,
)
from modules.training.nonfinite_steps import NonFiniteGuard
from modules.training.optim import WarmupCosine
from modules.training.precision import check_precision
from modules.training.seeding import seed_step


class LitTokenizer(LightningModule):
    """Trains a :class:`modules.tokenizer.VideoTokenizer` (paper 4.1).

    A run on pictures and a run on video differ in the data's ``clip.frames`` and in the tokenizer's ``temporal_factor`` only;
    ``--init_from`` joins them. Steps are those of the tokenizer: the critics' do not count, neither for ``max_steps`` nor for schedules.

    Args:
        tokenizer: The network.
        loss: Weights of the loss terms.
        perceptual: Distance of features; without it its weight is 0.
        adversarial: Discriminators of frames and motion; none if not given.
        scale_dropping: Probability of leaving out a scale but the last in a training step (Infinity's recipe: 0.5).
        optimizer: Called with the tokenizer's parameters.
        discriminator_optimizer: Called with the critics' parameters (Infinity's recipe: twice the tokenizer's learning rate).
        warmup_steps: Steps until the peak learning rate; after it a cosine runs to zero at ``trainer.max_steps``.
        gradient_clip: Greatest gradient norm of a step, of the tokenizer and of the critics each; 0 for none.
        patience: Steps whose gradient is not finite are skipped and counted; so many in a row end the run.
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
        self.tokenizer, self.adversary = tokenizer, adversarial
        self.loss, self.perceptual, self.scale_dropping = loss, perceptual, scale_dropping
        self.optimizer, self.discriminator_optimizer, self.warmup_steps = optimizer, discriminator_optimizer, warmup_steps
        self.steps, self.critic_steps = NonFiniteGuard(gradient_clip, patience), NonFiniteGuard(gradient_clip, patience)
        self.weights_source: str | None = None
        self._range_checked = False

    def setup(self, stage: str) -> None:
        """Refuse what cannot work before anything is read."""
        check_precision(self.trainer.precision, ("32-true", "bf16-mixed"))
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if getattr(data, "encoded", False):
            raise ValueError(f"a tokenizer needs video, and {type(data).__name__} has latents")
        if stage == "predict":
            writers = [each for each in self.trainer.callbacks if isinstance(each, BasePredictionWriter)]  # type: ignore[attr-defined]
            if not hasattr(data, "files") and not (writers and hasattr(data, "dataset")):
                raise ValueError(
                    f"a tokenizer reconstructs video files, which {type(data).__name__} does not have: add -c configs/reconstruct.yaml; "
                    "or it encodes clips for training: add -c configs/encode_latents.yaml"
                )
            return
        # Held-out clips are all of one size; those of training may not be.
        self.scores = self._new_scores(self.tokenizer.layout(data.clip).pyramid.scales)
        for clip in data.train_clips if stage == "fit" else ():
            self.tokenizer.layout(clip)
        strategy = self.trainer.strategy
        turns = stage == "fit" and self.adversary is not None
        if turns and isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise ValueError("tokenizer and critics take turns: use --trainer.strategy ddp_find_unused_parameters_true")

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
        video, critics = self._pixels(batch), self._critics()
        result = self.tokenizer(video, drop=self.scale_dropping)
        terms = self.loss(result, video, self.perceptual)
        if critics:
            terms |= self._with_critics(terms["loss"], result.video, critics)
        if self._improve_tokenizer(terms, batch):
            if critics:
                self._improve_critics(critics, terms, video, result.video, batch)
            self._score_training(video, result)
        self._log_training(terms)

    def validation_step(self, batch: VideoBatch, batch_index: int) -> None:
        self._measure(batch)

    def test_step(self, batch: VideoBatch, batch_index: int) -> dict[str, Any]:
        """Returns ``videos`` for the report: the clips as they are and reconstructed, uint8."""
        video = self._measure(batch)
        if self.perceptual is not None:
            lpips = self.perceptual(to_unit(video), to_unit(batch["video"]))
            self.log("test/lpips_vgg", lpips, batch_size=len(video), sync_dist=True)
        return {"videos": {"real": to_uint8(batch["video"]), "reconstructed": video}}

    def predict_step(self, batch: FileChunk | EncodingBatch, batch_index: int) -> dict[str, Tensor]:
        """Of clips, their ``latent`` ``(B, d, t, h, w)``; of a file, the frames that are complete by now.

        These are ``real`` and ``reconstructed``, ``(1, 3, n, H, W)`` uint8 each.
        """
        if "file" not in batch:
            return {"latent": self.tokenizer.encode_for_tokens(to_unit(batch["video"]))}
        if batch["first"]:
            self._stream = StreamedReconstruction(self.tokenizer)
        real, reconstructed = self._stream.push(batch["video"], batch["last"])
        return {"real": real, "reconstructed": reconstructed}

    def preview(self, batch: VideoBatch) -> dict[str, Tensor]:
        """Clips before and after the bits, uint8 ``(B, 3, T, H, W)``."""
        return {"real": to_uint8(batch["video"]), "reconstructed": self.reconstruct(batch)}

    def reconstruct(self, batch: VideoBatch) -> Tensor:
        """The clips of a batch through the bits, uint8."""
        return self._reconstruct(batch)[0]

    def configure_optimizers(self) -> list[dict[str, Any]]:
        """The tokenizer's optimizer, then the critics' if there are any; each with its schedule."""
        optimizers = [self.optimizer(self.tokenizer.parameters())]
        if self.adversary is not None:
            optimizers.append(self.discriminator_optimizer(self.adversary.parameters()))
        return [
            {"optimizer": optimizer, "lr_scheduler": WarmupCosine(optimizer, self.warmup_steps, self.trainer.max_steps)}
            for optimizer in optimizers
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["skipped_steps"] = [self.steps.skipped, self.critic_steps.skipped]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps.skipped, self.critic_steps.skipped = checkpoint.get("skipped_steps", [0, 0])

    def on_train_end(self) -> None:
        if self.steps.skipped or self.critic_steps.skipped:
            rank_zero_warn(f"skipped, as gradients were not finite: {self.steps.skipped} steps, {self.critic_steps.skipped} of the critics")

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _pixels(self, batch: VideoBatch) -> Tensor:
        """The batch's video in -1..1; the first batch of a run must be just that."""
        video = to_unit(batch["video"])
        if not self._range_checked:
            check_unit(video)
            self._range_checked = True
        return video

    def _critics(self) -> AdversarialLoss | None:
        """The adversary, if it takes part in this step."""
        return self.adversary if self.adversary is not None and self.adversary.active(self.global_step) else None

    def _with_critics(self, loss: Tensor, video: Tensor, critics: AdversarialLoss) -> dict[str, Tensor]:
        """The loss with the adversarial term."""
        adversarial = critics.generator_loss(video)
        return {"adversarial": adversarial.detach(), "loss": loss + critics.strength(self.global_step) * adversarial}

    def _improve_tokenizer(self, terms: dict[str, Tensor], batch: VideoBatch) -> bool:
        """Make the tokenizer's step, unless its gradient is not finite."""
        optimizer = self._first(self.optimizers())
        self._backward(optimizer, terms["loss"])
        terms["gradient_norm"] = norm = self.steps.norm(self.tokenizer.parameters())
        if not self._passes(self.steps, norm, batch):
            return False
        optimizer.step()
        self._first(self.lr_schedulers()).step()
        return True

    def _improve_critics(self, critics: AdversarialLoss, terms: dict[str, Tensor], real: Tensor, fake: Tensor, batch: VideoBatch) -> None:
        """Make the critics' step. Their optimizer is called past Lightning, which would count it as another step of the run."""
        optimizer = self.optimizers(use_pl_optimizer=False)[1]  # type: ignore[index]
        judged = critics.discriminator_loss(real, fake)
        self._backward(optimizer, judged["loss"])
        norm = self.critic_steps.norm(critics.parameters())
        terms |= {f"critics/{name}": value.detach() for name, value in judged.items()} | {"critics/gradient_norm": norm}
        if self._passes(self.critic_steps, norm, batch):
            optimizer.step()
            self.lr_schedulers()[1].step()  # type: ignore[index]

    def _backward(self, optimizer: Any, loss: Tensor) -> None:
        optimizer.zero_grad()
        self.manual_backward(loss)

    def _passes(self, steps: NonFiniteGuard, norm: Tensor, batch: VideoBatch) -> bool:
        clips = f"clips {batch['index'].tolist()}"
        if steps.passes(norm, clips):
            return True
        rank_zero_warn(f"step {self.global_step} skipped: the gradient's norm is {norm.item()} for {clips}")
        return False

    @staticmethod
    def _first(found: Any) -> Any:
        """The tokenizer's optimizer or schedule, which Lightning gives alone if there is no other."""
        return found[0] if isinstance(found, list) else found

    def _score_training(self, video: Tensor, result: Reconstruction) -> None:
        """Score the batch of a step that is logged."""
        if self._is_logged():
            scores = self._new_scores(len(result.quantized.bits)).to(self.device)
            scores.update(to_uint8(result.video), to_uint8(video), result.quantized.bits, result.quantized.residual_energy)
            self.log_dict({f"train/{name}": value for name, value in scores.collect().items()})

    def _log_training(self, terms: dict[str, Tensor]) -> None:
        self.log("loss", terms["loss"], prog_bar=True, logger=False)
        skipped = {"skipped_steps": float(self.steps.skipped), "critics/skipped_steps": float(self.critic_steps.skipped)}
        self.log_dict({f"train/{name}": value for name, value in {**terms, **skipped}.items()})

    def _new_scores(self, scales: int) -> ReconstructionScores:
        return ReconstructionScores(self.tokenizer.shape.temporal_factor, scales, self.tokenizer.bits)

    def _is_logged(self) -> bool:
        """Whether Lightning hands what is logged in this step to the loggers."""
        return (self.trainer.fit_loop.total_batch_idx + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    @torch.no_grad()
    def _reconstruct(self, batch: VideoBatch) -> tuple[Tensor, Quantized]:
        """uint8 video through the bits, which are those of float32, and back."""
        quantized = self.tokenizer.quantize(self.tokenizer.encode_for_tokens(to_unit(batch["video"])))
        with winograd_convolutions():
            return to_uint8(self.tokenizer.decode(quantized.latent)), quantized

    def _measure(self, batch: VideoBatch) -> Tensor:
        video, quantized = self._reconstruct(batch)
        self.scores.update(video, to_uint8(batch["video"]), quantized.bits, quantized.residual_energy)
        return video

    def _log_scores(self, stage: str) -> None:
        scores = self.scores.collect()
        for name, value in scores.items():
            # Equal on all processes; said so that Lightning does not warn.
            self.log(f"{stage}/{name}", value, prog_bar=name in ("psnr", "ssim"), sync_dist=True)
