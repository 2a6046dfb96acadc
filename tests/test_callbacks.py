"""Schedules depend on the step alone; what a run leaves behind is whole, and the same after a second run."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import Metric

from callbacks import ErrorInheritance, FlipRatioSchedule, LogVideos, SaveRunConfig, WriteReport, WriteVideos
from callbacks.log_videos import log_image
from modules.autoregression import BitCorruption
from modules.batch import Requests, VideoBatch
from modules.geometry import Clip


class Plain(LightningModule):
    """One weight; nothing that callbacks could use."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: VideoBatch, batch_index: int) -> Tensor:
        return self.weight.square() * (1.0 + torch.rand(()))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Toy(Plain):
    """Everything that callbacks ask for; its videos are the given ones, its ratios are noted at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.corruption = BitCorruption()
        self.weights_source = "start.safetensors"
        self.seen: dict[int, tuple[float, float, float, bool]] = {}

    def training_step(self, batch: VideoBatch, batch_index: int) -> Tensor:
        corruption = self.corruption
        self.seen[self.global_step] = (corruption.p_min, corruption.p_max, corruption.delta, corruption.inherit)
        return super().training_step(batch, batch_index)

    def validation_step(self, batch: VideoBatch, batch_index: int) -> None:
        pass

    def preview(self, batch: VideoBatch) -> dict[str, Tensor]:
        torch.rand(3)
        return {"real": batch["video"], "darker": batch["video"] // 2}

    def test_step(self, batch: VideoBatch, batch_index: int) -> dict[str, Any]:
        self.log("test/loss", 0.5, batch_size=len(batch["video"]))
        return {"videos": self.preview(batch)}

    def predict_step(self, batch: Requests, batch_index: int) -> dict[str, Tensor]:
        size = (3, batch["frames"], batch["height"], batch["width"])
        return {"video": torch.stack([torch.full(size, seed, dtype=torch.uint8) for seed in batch["seed"]])}

    def sampling_settings(self) -> dict[str, Any]:
        return {"temperature": 0.5}


class BrightnessClassifier(Metric):
    """Finds the mean pixel, its value per clip position as a row, and something that is not a number."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, video: Tensor, label: Tensor) -> None:
        self.total = self.total + torch.tensor([video.float().mean(dim=(1, 2, 3, 4)).sum().item(), len(label)])

    def compute(self) -> dict[str, Tensor]:
        return {"bright": self.total[0] / self.total[1], "row": self.total, "undefined": torch.tensor(torch.nan)}


class ToyData(LightningDataModule):
    clip = Clip(frames=5, height=16, width=16, fps=8.0)

    def batches(self, count: int = 2) -> DataLoader:
        video = torch.full((4, 3, 5, 16, 16), 100, dtype=torch.uint8)
        batch = VideoBatch(video=video, label=torch.arange(4), caption=["a", "b", "", ""], index=torch.arange(4))
        return DataLoader([batch] * count, batch_size=None)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader:
        return self.batches(20)

    def val_dataloader(self) -> DataLoader:
        return self.batches()

    def test_dataloader(self) -> DataLoader:
        return self.batches()

    def classifier(self) -> Metric:
        return BrightnessClassifier()


def make_trainer(folder: Path, *callbacks: Callback, **settings: Any) -> Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **quiet, num_sanity_val_steps=0, **settings)  # type: ignore[arg-type]


# Schedules


def test_ramps_start_end_and_rise_in_their_shapes() -> None:
    linear = FlipRatioSchedule(p_min=0.1, p_max=0.3, delta=0.02, ramp="linear", start_step=10, end_step=20)
    assert linear.value(0) == linear.value(10) == (0.0, 0.0, 0.0, 0.0)
    assert linear.value(15) == pytest.approx((0.05, 0.15, 0.01, 0.01))
    assert linear.value(20) == linear.value(1000) == (0.1, 0.3, 0.02, 0.02)
    cosine = FlipRatioSchedule(p_max=0.2, ramp="cosine", start_step=10, end_step=20)
    assert [cosine.fraction(step) for step in (5, 10, 15, 20, 30)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert cosine.fraction(12) < linear.fraction(12) and cosine.fraction(18) > linear.fraction(18)
    none = FlipRatioSchedule(start_step=3)
    assert none.value(2) == (0, 0, 0, 0) and none.value(3) == (0.0, 0.25, 0.01, 0.01)  # the paper's values
    assert FlipRatioSchedule(delta_min=0.0).value(0) == (0.0, 0.25, 0.01, 0.0)


def test_impossible_ratios_and_ramps_are_refused() -> None:
    for settings, message in (
        ({"p_min": -0.1}, "p_min -0.1"),
        ({"p_min": 0.3}, "p_min 0.3, p_max 0.25"),
        ({"p_max": 0.6}, "p_max 0.6"),
        ({"delta": -0.01}, "-0.01"),
        ({"delta_min": 0.02}, "delta_min must be between 0 and delta 0.01, got 0.02"),
        ({"start_step": -1}, "-1"),
        ({"end_step": 5}, "end_step 5 needs a ramp"),
        ({"ramp": "linear"}, "linear ramp needs an end_step behind its start_step 0, got None"),
        ({"ramp": "cosine", "start_step": 5, "end_step": 5}, "got 5"),
    ):
        with pytest.raises(ValueError, match=message):
            FlipRatioSchedule(**settings)
    with pytest.raises(ValueError, match="-2"):
        ErrorInheritance(start_step=-2)


def test_settings_that_would_overwrite_each_other_or_never_start_are_refused(tmp_path: Path) -> None:
    flipping, inheriting = Toy(), Toy()
    flipping.corruption = BitCorruption(0.0, 0.1)
    inheriting.corruption = BitCorruption(inherit=True)
    for callbacks, model, message in (
        ([FlipRatioSchedule(), FlipRatioSchedule()], Toy(), "2 callbacks FlipRatioSchedule would overwrite each other"),
        ([ErrorInheritance(), ErrorInheritance()], Toy(), "2 callbacks ErrorInheritance would overwrite each other"),
        ([FlipRatioSchedule()], flipping, "flip ratios are set twice: model.corruption has p_max 0.1"),
        ([ErrorInheritance()], inheriting, "error inheritance is set twice"),
        ([FlipRatioSchedule(start_step=2)], Toy(), "flip_ratio.start_step is 2, and the run ends at trainer.max_steps 2"),
        ([ErrorInheritance(start_step=9)], Toy(), "error_inheritance.start_step is 9"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path, *callbacks, max_steps=2).fit(model, ToyData())


def test_a_second_fit_of_one_model_may_have_another_schedule(tmp_path: Path) -> None:
    model = Toy()
    for schedule in (FlipRatioSchedule(p_max=0.1), FlipRatioSchedule(p_max=0.2)):
        make_trainer(tmp_path, schedule, ErrorInheritance(), max_steps=1, limit_val_batches=0).fit(model, ToyData())
    assert model.seen[0][1] == 0.2 and (model.corruption.p_max, model.corruption.inherit) == (0.0, False)


@pytest.mark.parametrize("callback", [FlipRatioSchedule(), ErrorInheritance(), LogVideos()])
def test_models_that_lack_something_are_refused(tmp_path: Path, callback: Callback) -> None:
    with pytest.raises(TypeError, match=f"{type(callback).__name__} needs a model with a .*; Plain has none"):
        make_trainer(tmp_path, callback, max_steps=1).fit(Plain(), ToyData())


def test_resumed_schedule_equals_the_whole_one(tmp_path: Path) -> None:
    def run(steps: int, checkpoint: Path | None = None) -> dict[int, tuple[float, float, float, bool]]:
        model = Toy()
        schedules = FlipRatioSchedule(0.1, 0.2, 0.05, ramp="linear", end_step=6), ErrorInheritance(start_step=4)
        trainer = make_trainer(tmp_path, *schedules, max_steps=steps, limit_val_batches=0)
        trainer.fit(model, ToyData(), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return model.seen

    whole = run(8)
    assert whole == run(5) | run(8, tmp_path / "last.ckpt")
    assert whole[0] == (0.0, 0.0, 0.0, False)
    assert whole[3][:3] == pytest.approx((0.05, 0.1, 0.025))
    assert [whole[step][3] for step in (3, 4)] == [False, True]
    assert whole[7] == (0.1, 0.2, 0.05, True)


# What a run leaves behind


def requests(names: list[str], seed: int = 7) -> DataLoader:
    conditions, seeds = [f"a {name}" for name in names], [seed] * len(names)
    asked = [{"condition": condition, "seed": seed} for condition in conditions]
    size = {"frames": 5, "height": 16, "width": 16, "fps": 8.0}
    batch = Requests(condition=conditions, then=[[]] * len(names), seed=seeds, name=names, asked=asked, **size)
    batch["prefix"] = torch.zeros(len(names), 3, 1, 16, 16, dtype=torch.uint8)
    return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_written_videos_and_their_manifest(tmp_path: Path) -> None:
    def predict(loader: DataLoader) -> list[dict[str, Any]]:
        writer = WriteVideos(str(tmp_path / "clips"), magnify=2, sheet_rows=3)
        make_trainer(tmp_path, writer).predict(Toy(), loader, return_predictions=False)
        return read_lines(tmp_path / "clips" / "manifest.jsonl")

    lines = predict(requests(["one", "two.-0"]))
    assert [line["file"] for line in lines] == ["one.mp4", "two.-0.mp4"]
    assert lines[0] == {
        "file": "one.mp4",
        "others": ["one.webp"],
        "condition": "a one",
        "seed": 7,
        "settings": {"temperature": 0.5},
        "checkpoint": "start.safetensors",
        "weights": None,
    }
    names = {path.name for path in (tmp_path / "clips").iterdir()}
    assert names == {"one.mp4", "one.webp", "two.-0.mp4", "two.-0.webp", "manifest.jsonl", "contact_sheet.png"}

    again = predict(requests(["two.-0", "three"], seed=9))
    assert {line["file"]: line["seed"] for line in again} == {"one.mp4": 7, "two.-0.mp4": 9, "three.mp4": 9}
    assert len(again) == 3

    for name in ("../four", "/four", "", "."):
        with pytest.raises(ValueError, match=f"within the folder, got {name!r}"):
            predict(requests([name]))


def test_manifests_of_several_processes_are_joined(tmp_path: Path) -> None:
    def start(rank: int) -> tuple[WriteVideos, Any]:
        strategy = SimpleNamespace(barrier=lambda: None)
        trainer = SimpleNamespace(world_size=2, global_rank=rank, is_global_zero=rank == 0, strategy=strategy, ckpt_path="a.ckpt")
        writer = WriteVideos(str(tmp_path))
        writer.setup(trainer, Toy(), "predict")  # type: ignore[arg-type]
        return writer, trainer

    def write(writer: WriteVideos, trainer: Any, name: str, seed: int) -> None:
        batch = next(iter(requests([name], seed)))
        writer.write_on_batch_end(trainer, Toy(), Toy().predict_step(batch, 0), None, batch, 0, 0)

    write(*start(1), "left behind", 1)
    first, second = start(0), start(1)
    assert [line["seed"] for line in read_lines(tmp_path / "manifest.jsonl")] == [1]
    write(*first, "left behind", 2)
    write(*second, "other", 3)
    for writer, trainer in (second, first):
        writer.teardown(trainer, Toy(), "predict")
    assert {line["file"]: line["seed"] for line in read_lines(tmp_path / "manifest.jsonl")} == {"left behind.mp4": 2, "other.mp4": 3}
    assert not list(tmp_path.glob("manifest.rank*"))


def test_report(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        make_trainer(tmp_path, WriteReport(str(tmp_path / "results" / "report.json"))).test(Toy(), ToyData(), verbose=False)
    report = json.loads((tmp_path / "results" / "report.json").read_text())
    assert report["protocol"] | {"seed": None} == {
        "clips": 8,
        "frames": 5,
        "height": 16,
        "width": 16,
        "fps": 8.0,
        "settings": {"temperature": 0.5},
        "checkpoint": "start.safetensors",
        "seed": None,
    }
    assert report["metrics"] == {"test/loss": 0.5}
    assert report["judge"]["real"] == {"bright": 100.0, "row": [800.0, 8.0], "undefined": None}
    assert report["judge"]["darker"]["bright"] == 50.0
    assert report["seconds"] > 0
    assert report["evaluations"] == [] and report["provenance"]["data"] == "ToyData"
    assert "| darker | 50     | nan       |" in caplog.text
    with Image.open(tmp_path / "results" / "report.png") as sheet:
        assert sheet.height > 6 * 2 * 80


def test_images_at_validation_do_not_disturb_training(tmp_path: Path) -> None:
    def train(folder: Path, *callbacks: Callback) -> float:
        torch.manual_seed(0)
        model = Toy()
        make_trainer(folder, *callbacks, max_steps=6, val_check_interval=2).fit(model, ToyData())
        return model.weight.item()

    assert train(tmp_path, LogVideos(every_n_validations=2, clips=2)) == train(tmp_path / "other")
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"step_{step:07d}_{kind}.png" for step in (2, 6) for kind in ("darker", "real")]


def test_images_go_to_loggers_that_take_them(tmp_path: Path) -> None:
    class Recorder(WandbLogger):
        def __init__(self) -> None:
            self.taken: list[tuple[str, int | None]] = []

        def log_image(self, key: str, images: list[Any], step: int | None = None, **settings: Any) -> None:
            self.taken.append((key, step))

    logger = Recorder()
    trainer = SimpleNamespace(loggers=[CSVLogger(tmp_path), logger], global_step=12, default_root_dir=tmp_path)
    log_image(trainer, "real", Image.new("RGB", (8, 8)))  # type: ignore[arg-type]
    assert logger.taken == [("val/real", 12)]
    assert not (tmp_path / "images").exists()


def test_run_config_is_written_for_every_kind_of_run(tmp_path: Path) -> None:
    def run(kind: str, *options: str) -> None:
        quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        LightningCLI(
            Toy,
            ToyData,
            args=[kind, "--trainer.accelerator=cpu", f"--trainer.default_root_dir={tmp_path}", *quiet, *options],
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
        )

    for steps in (2, 1):
        run("fit", f"--trainer.max_steps={steps}", "--trainer.limit_val_batches=0")
    run("test")
    assert {path.name for path in tmp_path.glob("*.yaml")} == {"fit.yaml", "test.yaml"}
    assert yaml.safe_load((tmp_path / "fit.yaml").read_text())["trainer"]["max_steps"] == 1
