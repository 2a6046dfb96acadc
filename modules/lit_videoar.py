"""Lightning module of the autoregressive model: training, validation, test and prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from modules.autoregression import (
    BitCorruption,
    ContextSource,
    Generation,
    InMemoryLatentCache,
    LongVideoStrategy,
    ReEncoding,
    Rollout,
    Sampler,
    ScaleWeights,
    bit_loss,
    loss_by_scale,
    teacher_forcing,
)
from modules.batch import LatentBatch, Requests, VideoBatch
from modules.generation_requests import check_requests, generate_requests
from modules.geometry import Clip, Layout
from modules.metrics import BitScores, FrameQuality
from modules.pixels import to_uint8, to_unit
from modules.tokenizer import VideoTokenizer
from modules.training.fsdp import shard
from modules.training.optim import WarmupCosine, decay_groups
from modules.training.precision import check_precision
from modules.training.seeding import seed_step
from modules.transformer import RandomFrameMask, VideoARTransformer, check_scales

Batch = VideoBatch | LatentBatch


class LitVideoAR(LightningModule):
    """Training, evaluation and sampling of a transformer over the bits of a frozen tokenizer (paper 4.2).

    Training stages differ only in data (resolution, duration) and schedule; ``--init_from`` passes weights from one to the next.

    Args:
        tokenizer: The trained tokenizer; ``--init_from`` loads its weights.
        transformer: Called with the number of bits per token.
        condition_dropout: Fraction of clips trained without their condition, for classifier-free guidance.
        corruption: Bit flips in training; the callbacks FlipRatioSchedule and ErrorInheritance set the ratios.
        frame_mask: Random frame mask in training; None to disable.
        rollout: Uses sampled context bits in a fraction of the training steps; None to disable.
        scale_weights: Weights of the training loss by scale; flat (every token counts the same) by default.
        sampler: Bit sampler of generation.
        long_video: Strategy beyond the trained length; re-encodes the last 9 of 17 frames by default.
        latent_cache: In-memory cache of latents, for data without augmentation.
        optimizer: Called with the parameter groups.
        warmup_steps: Steps of linear warm-up to the peak learning rate, followed by cosine decay to zero at ``trainer.max_steps``.
    """

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        transformer: Callable[[int], VideoARTransformer],
        condition_dropout: float = 0.1,
        corruption: BitCorruption | None = None,
        frame_mask: RandomFrameMask | None = None,
        rollout: Rollout | None = None,
        scale_weights: ScaleWeights | None = None,
        sampler: Sampler | None = None,
        long_video: LongVideoStrategy | None = None,
        latent_cache: InMemoryLatentCache | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        if not 0.0 <= condition_dropout < 1.0:
            raise ValueError(f"condition_dropout must be within 0 and 1, got {condition_dropout}")
        self.tokenizer = tokenizer.requires_grad_(False)
        self.transformer = transformer(tokenizer.bits)
        self.corruption, self.frame_mask, self.rollout = corruption or BitCorruption(), frame_mask, rollout
        self.scale_weights = scale_weights or ScaleWeights()
        self.condition_dropout, self.latent_cache = condition_dropout, latent_cache or InMemoryLatentCache()
        self.generate = Generation(self.tokenizer, self.transformer, sampler or Sampler(), long_video or ReEncoding())
        self.optimizer, self.warmup_steps = optimizer, warmup_steps
        self.weights_source: str | None = None

    def configure_model(self) -> None:
        """Shard the transformer if the strategy has a device mesh; the frozen tokenizer is replicated."""
        if self.device_mesh is not None:
            shard(self.transformer, self.device_mesh["data_parallel"])

    def setup(self, stage: str) -> None:
        """Check the data against the model and register class names or words before any clip is read."""
        check_precision(self.trainer.precision, ("32-true", "bf16-mixed", "16-mixed"))
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage == "predict":
            if not hasattr(data, "requests"):
                raise ValueError(f"clips are generated from prompts, which {type(data).__name__} does not have: add -c configs/sample.yaml")
            return
        # Validation clips share one size; training clips may not.
        layout = self.tokenizer.layout(data.clip)
        check_scales(layout)
        self.scores, self.quality = BitScores(layout, self.tokenizer.bits), FrameQuality()
        if self.weights_source is not None:
            self._check_latents(self.tokenizer.state_dict(), self.weights_source)
        self.generate.check_encoder(data.clip.frames)
        if stage == "fit":
            for clip in data.train_clips:
                check_scales(self.tokenizer.layout(clip))
            self.transformer.condition.learn_names(data.class_names, data.captions)
            if data.changing and self.latent_cache.clips:
                rank_zero_info("training clips differ on every visit, so latents are not cached in memory")
                self.latent_cache = InMemoryLatentCache()

    def on_fit_start(self) -> None:
        # Not in setup, where it is not yet known if the trainer resumes from a checkpoint.
        if self.weights_source is None and self.trainer.ckpt_path is None:
            self._check_latents({}, None)
            rank_zero_warn("the tokenizer's weights are random; load those of a trained tokenizer with --init_from")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reject latents of another tokenizer. Checked here because strategies may shard or round the weights after loading."""
        weights = {name.removeprefix("tokenizer."): value for name, value in checkpoint["state_dict"].items()}
        self._check_latents(weights, str(self.trainer.ckpt_path))

    def on_validation_start(self) -> None:
        """Reject class names that differ from those stored with the loaded weights."""
        self.transformer.condition.learn_names(self.trainer.datamodule.class_names, captions=[])  # type: ignore[attr-defined]

    def on_test_start(self) -> None:
        self.on_validation_start()

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        seed_step(self.global_rank, self.global_step, batch_index % self.trainer.accumulate_grad_batches)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        ids, latent = self._dropped(self._ids(batch)), self.encode(batch)
        layout = Layout.of(latent)
        context_source = self._context_source(ids, layout)
        tokens = teacher_forcing(latent, context_source, layout.pyramid, self.transformer.resize)
        logits = self.transformer(tokens.inputs, layout, ids, self._draw_frame_mask(len(ids), layout), tokens.complete)
        loss = bit_loss(logits, tokens.targets, self.scale_weights.of_tokens(layout, self.device))
        accuracy = ((logits > 0) == tokens.targets).float().mean()
        self.log_dict({"train/loss": loss, "train/bit_accuracy": accuracy}, prog_bar=True)
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log_dict({f"train/loss/scale{scale}": value for scale, value in enumerate(loss_by_scale(logits, tokens.targets, layout))})
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._score(batch, "val")

    def test_step(self, batch: Batch, batch_index: int) -> dict[str, Any]:
        """Score the true bits, then generate a clip for every clip's condition; returns ``videos`` for the report, uint8."""
        self._score(batch, "test")
        videos = self.preview(batch)
        if "real" in videos:
            self.quality.update(videos["reconstructed"], videos["real"])
        return {"videos": videos}

    def on_predict_start(self) -> None:
        """Check all requests before the first is generated, naming file and line of an invalid one; cast the weights."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        check_requests(getattr(data, "requests", ()), self.generate, data.clip)
        self.transformer.cast_weights(self.transformer.execution.dtype)

    def predict_step(self, batch: Requests, batch_index: int) -> dict[str, Tensor]:
        """Generate the requested clips: ``video`` ``(B, 3, frames, height, width)`` uint8."""
        return {"video": generate_requests(batch, self.generate, self.device)}

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        """Return the clips of a batch: real, reconstructed, and generated for the same conditions (seeds: the clips' numbers), uint8.

        For a batch of latents there are no real clips.
        """
        real = {"real": to_uint8(batch["video"])} if "video" in batch else {}
        return {**real, "reconstructed": self.reconstruct(batch), "generated": self.make(batch)}

    def reconstruct(self, batch: Batch) -> Tensor:
        """Return the clips of a batch encoded and decoded by the tokenizer, uint8."""
        return to_uint8(self.tokenizer.decode(self.tokenizer.quantize(self.encode(batch)).latent))

    def make(self, batch: Batch, frames: int | None = None) -> Tensor:
        """Generate clips for the conditions of a batch, uint8; seeds are the clips' numbers, the default length is the batch's."""
        clip = self.tokenizer.clip_of(batch["latent"]) if "latent" in batch else Clip(*batch["video"].shape[2:])
        return to_uint8(self.generate(self._ids(batch), replace(clip, frames=frames or clip.frames), batch["index"].tolist()))

    def encode(self, batch: Batch) -> Tensor:
        """Return continuous latents ``(B, d, t, h, w)``: the batch's own, or encoded; in training, those of known clips are cached."""

        def encode(video: Tensor) -> Tensor:
            return self.tokenizer.encode_for_tokens(to_unit(video))

        if "latent" in batch:
            return batch["latent"].float()
        if not self.training:
            return encode(batch["video"])
        return self.latent_cache.fetch(batch["index"], batch["video"], encode)

    def sampling_settings(self) -> dict[str, Any]:
        """Return the sampling settings as plain values for manifests and reports."""
        sampler = self.generate.sampler
        predicts = self.trainer.state.fn == "predict"
        return {
            "guidance": asdict(sampler.guidance),
            "temperature": sampler.temperature,
            "top_p": sampler.top_p,
            "long_video": self.generate.long_video.settings(),
            "precision": f"{self.trainer.precision}, {self.transformer.execution.precision}" if predicts else str(self.trainer.precision),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Update the condition names: averaged weights inserted by callbacks were copied before the names were registered."""
        names = {name: value for name, value in self.state_dict().items() if name.endswith("_extra_state")}
        checkpoint["state_dict"] |= names

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.optimizer(decay_groups(self.transformer))
        scheduler = WarmupCosine(optimizer, self.warmup_steps, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _check_latents(self, weights: Mapping[str, Tensor], source: str | None) -> None:
        """Raise ``ValueError`` if the data has latents of a tokenizer with other weights."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if getattr(data, "encoded", False):
            data.check_tokenizer(self.tokenizer.fingerprint(weights), source)

    def _context_source(self, ids: Tensor, layout: Layout) -> ContextSource:
        """Return the source of context bits for a training batch: flipped true bits or sampled bits."""
        if self.rollout is None or layout.frames == 1:
            return self.corruption
        due = self.rollout.due(self.global_step)
        self.log("train/rollout", float(due))
        return self.rollout.context_source(self.transformer, ids, layout) if due else self.corruption

    def _ids(self, batch: Batch) -> Tensor:
        """Return the condition ids ``(B, P)`` of a batch."""
        return self.transformer.condition.of_batch(batch["label"], batch["caption"])

    def _dropped(self, ids: Tensor) -> Tensor:
        """Replace the condition ids of random clips by "no condition" (-1)."""
        drop = torch.rand(len(ids), 1, device=ids.device) < self.condition_dropout
        return torch.where(drop, -1, ids)

    def _draw_frame_mask(self, clips: int, layout: Layout) -> Tensor | None:
        return None if self.frame_mask is None else self.frame_mask.draw(clips, layout.frames, self.device)

    @torch.no_grad()
    def _score(self, batch: Batch, stage: str) -> None:
        """Update loss, bit accuracy and majority baseline on uncorrupted bits."""
        ids, latent = self._ids(batch), self.encode(batch)
        layout = Layout.of(latent)
        tokens = teacher_forcing(latent, BitCorruption(), layout.pyramid, self.transformer.resize)
        logits = self.transformer(tokens.inputs, layout, ids, complete=tokens.complete)
        self.scores.update(logits, tokens.targets)
        self.log(f"{stage}/loss", bit_loss(logits, tokens.targets), batch_size=len(ids), prog_bar=True, sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        rank_zero_info(self.scores.table(self._log_scores("test")))
        if self.quality["psnr"].update_called:
            self.log_dict({f"test/{name}": value for name, value in self.quality.compute().items()}, sync_dist=True)
        self.quality.reset()

    def _log_scores(self, stage: str) -> dict[str, Tensor]:
        scores = self.scores.compute()
        self.scores.reset()
        for name, value in self.scores.by_name(scores).items():
            # The values are equal on all processes; sync_dist avoids Lightning's warning.
            self.log(f"{stage}/{name}", value, prog_bar=name == "bit_accuracy", sync_dist=True)
        return scores
