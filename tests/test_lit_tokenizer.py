"""Training of the tokenizer: two networks take turns, steps are the tokenizer's, what is not finite is skipped and counted."""

import csv
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger

from datamodules import MovingDigits
from modules import LitTokenizer
from modules.geometry import Clip
from modules.pixels import to_unit
from modules.tokenizer import AdversarialLoss, TokenizerLoss, VideoTokenizer

LOSS = TokenizerLoss(absolute=0.2, perceptual=0.0, squared=5.0, commitment=0.02, entropy=0.02, residual=0.02)


def model(adversary: AdversarialLoss | None = None, **settings: Any) -> LitTokenizer:
    tokenizer = VideoTokenizer(bits=8, channels=24, multipliers=(1, 1, 1), blocks=1, temporal_factor=4, groups=4)
    rates = {"optimizer": adam, "discriminator_optimizer": adam}
    return LitTokenizer(tokenizer, **{"loss": LOSS, "adversarial": adversary, "scale_dropping": 0.5, **rates, **settings})


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.5, 0.9))


def discriminators(**settings: Any) -> AdversarialLoss:
    return AdversarialLoss(channels=8, layers=2, **settings)


def fit(root: Path, module: LitTokenizer, steps: int, *callbacks: Callback, **settings: Any) -> Trainer:
    seed_everything(0, verbose=False)
    shown = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "enable_checkpointing": False}
    logger = CSVLogger(root, "log")
    trainer = Trainer(accelerator="cpu", max_steps=steps, callbacks=list(callbacks), logger=logger, **{**shown, **settings})
    data = MovingDigits(Clip(5, 16, 16), batch_size=4, clips=64, held_out=4)
    trainer.fit(module, datamodule=data)
    return trainer


def rows(root: Path) -> list[dict[str, str]]:
    with next(root.glob("log/*/metrics.csv")).open() as file:
        return list(csv.DictReader(file))


class Watch(Callback):
    """Keeps the weights before the first step and counts batches; ``poison`` turns a frame of some batches into NaN."""

    def __init__(self, poison: tuple[int, ...] = ()) -> None:
        self.poison, self.batches = poison, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.batches in self.poison:
            batch["video"] = to_unit(batch["video"])
            batch["video"][1, :, 2] = torch.nan
        self.batches += 1

    def moved(self, module: LightningModule, part: str) -> bool:
        state = module.state_dict()
        return any(not torch.equal(value, state[name]) for name, value in self.before.items() if name.startswith(part))


def test_steps_are_the_tokenizers_and_both_networks_move(tmp_path: Path) -> None:
    watch, module = Watch(), model(discriminators())
    trainer = fit(tmp_path, module, 3, watch)
    assert trainer.global_step == watch.batches == 3
    assert (
        watch.moved(module, "tokenizer.encoder") and watch.moved(module, "tokenizer.decoder") and watch.moved(module, "adversary.critics")
    )
    assert [state["state"][0]["step"] for state in (o.state_dict() for o in trainer.optimizers)] == [3, 3]


def test_discriminators_begin_at_their_step(tmp_path: Path) -> None:
    watch, module = Watch(), model(discriminators(start_step=2))
    fit(tmp_path, module, 3, watch, limit_train_batches=2, max_epochs=1)
    assert watch.moved(module, "tokenizer") and not watch.moved(module, "adversary")
    assert not any("discriminator/hinge" in name and value for row in rows(tmp_path) for name, value in row.items())
    watch, module = Watch(), model(discriminators(start_step=2))
    fit(tmp_path / "more", module, 3, watch)
    assert watch.moved(module, "adversary")


def test_discriminators_that_would_never_begin_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.adversarial\.start_step is 2, and the run ends at trainer\.max_steps 2"):
        fit(tmp_path, model(discriminators(start_step=2)), 2)


def test_schedules_count_the_tokenizers_steps(tmp_path: Path) -> None:
    trainer = fit(tmp_path, model(discriminators(), warmup_steps=1), 4)
    assert all(optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9) for optimizer in trainer.optimizers)


def test_health_is_in_the_log(tmp_path: Path) -> None:
    fit(tmp_path, model(discriminators()), 2, limit_val_batches=1, val_check_interval=2, check_val_every_n_epoch=None)
    names = {name for row in rows(tmp_path) for name, value in row.items() if value}
    scales, places = range(4), ["psnr_first", *(f"psnr_in_group_{place}" for place in range(1, 5))]
    shared = ["psnr", "ssim", "change_error", "change_of_still", *places, "bits/dead", "bits/effective_per_clip"]
    shared += [f"bits/scale{scale}/{name}" for scale in scales for name in ("balance", "worst_imbalance", "entropy", "dead", "left")]
    assert names >= {f"{stage}/{name}" for stage in ("train", "val") for name in shared}
    logits = [f"discriminator/{kind}_{network}" for kind in ("real", "fake") for network in ("frame", "video")]
    steps = [
        "gradient_norm",
        "discriminator/gradient_norm",
        "skipped_steps",
        "discriminator/skipped_steps",
        "adversarial",
        "commitment",
        "entropy",
    ]
    assert names >= {f"train/{name}" for name in logits + steps}


def test_a_poisoned_batch_is_skipped_counted_and_named(tmp_path: Path) -> None:
    watch, module = Watch(poison=(1, 3)), model(discriminators())
    with pytest.warns(UserWarning, match=r"step 1 skipped: gradient norm nan for clips \[\d+, \d+, \d+, \d+\]"):
        trainer = fit(tmp_path, module, 5, watch)
    assert trainer.global_step == 5 and watch.batches == 7 and module.tokenizer_step.skipped == 2
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert [float(row["train/skipped_steps"]) for row in rows(tmp_path)] == [0, 1, 1, 2, 2, 2, 2]


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="3 consecutive steps had non-finite gradients, the last one for clips"):
            fit(tmp_path, model(patience=3), 9, Watch(poison=tuple(range(1, 9))))


def test_a_poisoned_batch_leaves_no_trace(tmp_path: Path) -> None:
    """Two runs over the same clips in every batch, one with a poisoned batch more, end with the same weights."""

    class SameClips(Watch):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
            batch["video"] = torch.randint(256, (4, 3, 5, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    clean, poisoned = model(discriminators()), model(discriminators())
    poisoned.load_state_dict(clean.state_dict())
    fit(tmp_path / "clean", clean, 2, SameClips())
    with pytest.warns(UserWarning, match="skipped"):
        fit(tmp_path / "poisoned", poisoned, 2, SameClips(poison=(1,)))
    assert all(torch.equal(value, poisoned.state_dict()[name]) for name, value in clean.state_dict().items())


class Wrong(Callback):
    def __init__(self, change: Any) -> None:
        self.change = change

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        batch["video"] = self.change(batch["video"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda video: video.float() + 3, r"pixels must be in -1..1, the first batch has 4 to 240"),
        (torch.zeros_like, "all pixels of the first batch are -1"),
    ],
)
def test_pixels_of_another_range_are_refused_at_once(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, model(), 1, Wrong(change))


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_weights_are_refused(precision: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one of 32-true, bf16-mixed, not"):
        fit(tmp_path, model(), 1, precision=precision)


def test_bfloat16_trains_and_measures_the_bits_of_float32(tmp_path: Path) -> None:
    module = model(discriminators())
    trainer = fit(tmp_path, module, 3, precision="bf16-mixed", limit_val_batches=1)
    assert trainer.global_step == 3 and module.tokenizer_step.skipped == 0
    video = torch.randint(256, (2, 3, 5, 16, 16), dtype=torch.uint8)
    plain = module.tokenizer.quantize(module.tokenizer.encode(to_unit(video))).bits
    with torch.autocast("cpu", torch.bfloat16):
        _, quantized = module._reconstruct({"video": video, "label": video, "caption": [], "index": video})
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(quantized.bits, plain, strict=True))


def test_averaged_weights_differ_from_the_raw_ones(tmp_path: Path) -> None:
    module, kept = model(discriminators()), {}

    class Raw(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
            kept.update({name: value.clone() for name, value in pl_module.tokenizer.state_dict().items()})

    fit(tmp_path, module, 4, Raw(), EMAWeightAveraging(decay=0.9, update_every_n_steps=2))
    assert any(not torch.equal(kept[name], value) for name, value in module.tokenizer.state_dict().items())


@pytest.mark.slow
def test_five_hundred_steps_against_discriminators_stay_finite_and_do_not_collapse(tmp_path: Path) -> None:
    """The run of record: discriminators join at step 100; pictures stay as good, bits alive, and neither side wins outright."""
    module = model(discriminators(start_step=100, ramp_steps=100))
    fit(tmp_path, module, 500, log_every_n_steps=10)
    log = [row for row in rows(tmp_path) if row["train/psnr"]]
    numbers = {name: [float(row[name]) for row in log if row[name]] for name in log[-1] if name.startswith("train/")}
    assert module.tokenizer_step.skipped == module.discriminator_step.skipped == 0
    assert all(torch.tensor(values).isfinite().all() for values in numbers.values())
    first, joined, last = (torch.tensor(numbers["train/psnr"])[part].mean() for part in (slice(2), slice(8, 12), slice(-10, None)))
    assert joined > first + 1 and last > joined - 1
    assert max(numbers["train/bits/dead"][-10:]) <= 4  # of 32
    hinge = torch.tensor(numbers["train/discriminator/hinge"][-10:])
    assert 0.05 < hinge.mean() < 1.2
