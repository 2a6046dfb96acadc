"""An evaluation finds copies and static videos, whatever the batches, processes and earlier runs; departures are noted."""

import json
from collections.abc import Sized
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks import EvaluateVideos, WriteReport
from callbacks.evaluation import evaluate_videos
from callbacks.evaluation.feature_extraction import FeatureExtraction
from modules.batch import VideoBatch
from modules.geometry import Clip
from modules.metrics import Protocol, RandomFeatures, closest

pytestmark = pytest.mark.filterwarnings("ignore:a Fréchet distance of")
FEATURES = (4, 4)


class Patterns:
    """Patterns that move to the right; of a class that tells their colour."""

    def __init__(self, split: str, length: int, frames: int) -> None:
        self.split, self.length, self.frames, self.reads = split, length, frames, 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads += 1
        chance = torch.Generator().manual_seed(1000 * (self.split == "train") + index)
        image = torch.randint(256, (3, 1, 8, 8), generator=chance, dtype=torch.uint8)
        image[index % 3] //= 2
        return {
            "video": torch.cat([image.roll(step, dims=3) for step in range(self.frames)], dim=1),
            "label": index % 3,
            "caption": f"pattern {index}",
            "index": index,
        }


class Data(LightningDataModule):
    workers = 0

    def __init__(self, clips: int = 24, batch_size: int = 5, frames: int = 5, class_names: tuple[str, ...] = ("a", "b", "c")) -> None:
        super().__init__()
        self.batch_size, self.clip, self.class_names = batch_size, Clip(frames, 8, 8, 8.0), list(class_names)
        self.sets = {split: Patterns(split, clips, frames) for split in ("train", "test")}

    def dataset(self, split: str) -> Sized:
        return self.sets[split]

    def test_dataloader(self) -> DataLoader:
        return DataLoader([{"label": 0}])  # type: ignore[arg-type]


class Model(LightningModule):
    """Copies perfectly, and generates by the rule it is given."""

    def __init__(self, rule: str = "noise") -> None:
        super().__init__()
        self.rule = rule
        self.asked: list[tuple[int, int]] = []

    def test_step(self, batch: dict, batch_index: int) -> None:
        pass

    def reconstruct(self, batch: VideoBatch) -> Tensor:
        return batch["video"]

    def make(self, batch: VideoBatch, frames: int | None = None) -> Tensor:
        seeds, labels = batch["index"].tolist(), batch["label"].tolist()
        self.asked += zip(seeds, labels, strict=True)
        if self.rule == "training":
            dataset = self.trainer.datamodule.dataset("train")  # type: ignore[attr-defined]
            return torch.stack([dataset[seed % len(dataset)]["video"] for seed in seeds])
        if self.rule == "always the same":
            return batch["video"].flip(2)
        size = (3, frames or batch["video"].shape[2], 8, 8)
        chances = [torch.Generator().manual_seed(seed) for seed in seeds]
        return torch.stack([torch.randint(256, size, generator=chance, dtype=torch.uint8) for chance in chances])


def run(folder: Path, callback: Callback, model: LightningModule | None = None, data: Data | None = None) -> None:
    trainer = Trainer(
        default_root_dir=folder,
        callbacks=[callback, WriteReport(str(folder / "report.json"))],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.test(model or Model(), data or Data(), verbose=False)


def results(folder: Path) -> list[dict[str, Any]]:
    (evaluation,) = json.loads((folder / "report.json").read_text())["evaluations"]
    return evaluation["results"]


def evaluated(folder: Path, model: Model | None = None, data: Data | None = None, **settings: Any) -> dict[tuple[str, str], dict]:
    settings = {"protocol": Protocol("toy", frames=5, repeats=2), **settings}
    run(folder, EvaluateVideos(RandomFeatures(widths=FEATURES), str(folder), **settings), model, data)
    rows = results(folder)
    assert len({(row["metric"], row["of"]) for row in rows}) == len(rows)
    return {(row["metric"].split(" (")[0].split(",")[0], row["of"]): row for row in rows}


DISTANCE = "Fréchet distance"
KERNEL = "kernel distance"
NEAREST = "median distance to the nearest training video"
VARIETY = "variety for one condition"


def test_copies_have_no_distance_and_static_videos_a_large_one(tmp_path: Path) -> None:
    rows = evaluated(tmp_path)
    reference = rows[DISTANCE, "real"]["value"]
    assert rows[DISTANCE, "reconstructed"]["value"] == pytest.approx(0.0, abs=1e-6) and reference > 0
    assert rows[DISTANCE, "static"]["value"] > 3 * reference and rows[DISTANCE, "generated"]["value"] > reference
    assert all(row["real_vs_real"] == reference for (metric, _), row in rows.items() if metric == DISTANCE)
    assert rows[DISTANCE, "real"]["clips"] == 12 and rows[DISTANCE, "generated"]["clips"] == 24
    generated = rows[DISTANCE, "generated"]
    assert len(generated["values"]) == 2 and generated["values"][0] != generated["values"][1] and generated["spread"] > 0


def test_the_kernel_distance_stands_beside_the_other(tmp_path: Path) -> None:
    rows = evaluated(tmp_path)
    assert rows[KERNEL, "static"]["value"] > 3 * abs(rows[KERNEL, "real"]["value"]) and len(rows[KERNEL, "generated"]["values"]) == 2
    assert rows[KERNEL, "reconstructed"]["value"] <= 0 and "too few" not in rows[KERNEL, "real"]["note"]
    assert rows[KERNEL, "generated"]["real_vs_real"] == rows[KERNEL, "real"]["value"]


def test_reports_hold_all_that_is_needed_to_repeat_them(tmp_path: Path) -> None:
    evaluated(tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    (evaluation,) = report["evaluations"]
    assert evaluation["protocol"]["name"] == "toy" and evaluation["protocol"]["frames"] == 5 and evaluation["details"]["fingerprint"]
    assert {"checkpoint", "checkpoint_sha256", "command", "commit", "settings", "data"} <= report["provenance"].keys()
    assert report["provenance"]["clip"]["height"] == 8 and "torch" in report["provenance"]["libraries"]
    assert not report["metrics"]


def test_batches_do_not_matter(tmp_path: Path) -> None:
    one, other = evaluated(tmp_path / "a", data=Data(batch_size=5)), evaluated(tmp_path / "b", data=Data(batch_size=24))
    for key, row in one.items():
        assert other[key]["values"] == pytest.approx(row["values"], rel=1e-6, abs=1e-9)


def test_processes_share_positions_and_find_the_same() -> None:
    data = Data(batch_size=2)

    def extract(rank: int, world: int, count: int, gather: Any) -> Tensor:
        module = SimpleNamespace(device="cpu", transfer_batch_to_device=lambda batch, *_: batch, all_gather=gather)
        trainer = SimpleNamespace(global_rank=rank, world_size=world, is_global_zero=False, datamodule=data, progress_bar_callback=None)
        extraction = FeatureExtraction(trainer, module, data.dataset("test"), [4, 2, 0, 1, 3])  # type: ignore[arg-type]
        return extraction.features(RandomFeatures(widths=FEATURES), count, 5, Model().make, repeat=1)[0]

    def check(count: int) -> None:
        parts: dict[int, Tensor] = {}
        alone = extract(0, 1, count, lambda found: found)
        for rank in range(3):
            extract(rank, 3, count, lambda found, rank=rank: parts.setdefault(rank, found)[None].expand(3, -1, -1))
        assert len({len(part) for part in parts.values()}) == 1
        together = torch.stack([parts[rank] for rank in range(3)])
        assert torch.equal(extract(0, 3, count, lambda _: together), alone) and len(alone) == count

    for count in (1, 7, 8):
        check(count)


def test_every_position_and_repeat_has_its_own_seed(tmp_path: Path) -> None:
    model = Model()
    evaluated(tmp_path, model, clips=30)
    seeds = [seed for seed, _ in model.asked]
    assert len(set(seeds)) == len(seeds) == 60 and max(seeds) < 2**32


def test_classes_are_those_of_the_clips_or_cycle(tmp_path: Path) -> None:
    own, cycled = Model(), Model()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0)).tolist()
    evaluated(tmp_path / "a", own)
    evaluated(tmp_path / "b", cycled, protocol=Protocol("toy", frames=5, repeats=1, classes="uniform"))
    assert own.asked[:24] == [(position, number % 3) for position, number in enumerate(order)]
    assert cycled.asked == [(position, position % 3) for position in range(24)]


def test_departures_from_the_protocol_are_noted(tmp_path: Path) -> None:
    protocol = Protocol("toy", frames=4, clips=100, height=128, width=8, fps=25, features="FVD", repeats=2)
    note = evaluated(tmp_path, protocol=protocol, repeats=1)[DISTANCE, "generated"]["note"]
    for text in ("not toy", "24 real videos instead of 100", "8 rows instead of 128", "8 frames per second instead of 25"):
        assert text in note
    assert "instead of FVD" in note and "1 seeds instead of 2" in note and "columns" not in note and "too few videos" not in note
    assert not evaluated(tmp_path, protocol=Protocol("toy", frames=4, clips=24, repeats=2))[DISTANCE, "generated"]["note"]


def test_features_of_real_videos_are_cached(tmp_path: Path) -> None:
    first, second = Data(), Data()
    rows = evaluated(tmp_path / "a", data=first, cache=str(tmp_path / "cache"))
    again = evaluated(tmp_path / "b", data=second, cache=str(tmp_path / "cache"))
    assert {key: row["values"] for key, row in rows.items()} == {key: row["values"] for key, row in again.items()}
    assert second.sets["test"].reads == first.sets["test"].reads - 2 * 24
    for changed in ({"protocol": Protocol("toy", frames=4, repeats=2)}, {"data": Data(clips=22)}, {"clips": 8}):
        evaluated(tmp_path / "c", cache=str(tmp_path / "cache"), **changed)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def test_copies_of_training_videos_are_found_out(tmp_path: Path) -> None:
    copies = evaluated(tmp_path / "a", Model("training"), training_clips=24)
    honest = evaluated(tmp_path / "b", Model("noise"), training_clips=24)
    assert copies[NEAREST, "generated"]["value"] == pytest.approx(0.0, abs=1e-3) and honest[NEAREST, "generated"]["value"] > 0.5
    fraction = "fraction nearer to a training video than 99 % of real ones"
    assert copies[fraction, "generated"]["value"] == 1.0 and honest[fraction, "generated"]["value"] < 0.5


def test_the_nearest_training_videos_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list = []
    sheet = evaluate_videos.contact_sheet
    monkeypatch.setattr(
        evaluate_videos, "contact_sheet", lambda videos, texts, **rest: drawn.extend(videos) or sheet(videos, texts, **rest)
    )
    evaluated(tmp_path, Model("training"), training_clips=24)
    assert len(drawn) == 12 and all(torch.equal(made, known) for made, known in zip(drawn[::2], drawn[1::2], strict=True))
    with Image.open(tmp_path / "neighbours.png") as image:
        assert image.height > 12 * 80


def test_pairs_are_those_of_a_loop() -> None:
    training, made = torch.randn(50, 4).double(), torch.randn(9, 4).double()
    distances = (made[:, None] / training.std(0) - training / training.std(0)).norm(dim=2)
    expected = sorted(range(9), key=lambda number: distances[number].min())[:3]
    assert closest(training, made, 3) == [(number, int(distances[number].argmin())) for number in expected]


def test_training_videos_are_not_their_own_copies(tmp_path: Path) -> None:
    rows = evaluated(tmp_path, Model("training"), training_clips=24, protocol=Protocol("toy", frames=5, repeats=1, split="train"))
    assert (
        rows[NEAREST, "generated"]["value"] == pytest.approx(0.0, abs=1e-3)
        and "other training videos" in rows[NEAREST, "generated"]["note"]
    )


def test_one_answer_for_every_condition_has_no_variety(tmp_path: Path) -> None:
    assert evaluated(tmp_path / "a", Model("always the same"))[VARIETY, "generated"]["value"] == 0.0
    assert evaluated(tmp_path / "b", Model("noise"))[VARIETY, "generated"]["value"] > 0.05


def test_impossible_measurements_are_refused_before_any_video_is_made(tmp_path: Path) -> None:
    uniform = Protocol("toy", frames=5, classes="uniform")
    cases: list[tuple[dict, dict, str]] = [
        ({"protocol": Protocol("toy", frames=9)}, {}, "protocol toy needs 9 frames, the videos have 5"),
        (
            {"protocol": uniform},
            {"class_names": ()},
            "cycles through the classes, but the data has none",
        ),
        ({}, {"clips": 1}, "fewer than two clips in the split 'test'"),
    ]
    for settings, data, message in cases:
        model = Model()
        with pytest.raises(ValueError, match=message):
            evaluated(tmp_path, model, Data(**data), **settings)
        assert not model.asked
    for negative in ({"clips": 0}, {"repeats": -1}, {"training_clips": -1}):
        with pytest.raises(ValueError, match="must be positive"):
            EvaluateVideos(RandomFeatures(widths=FEATURES), "nowhere", **negative)  # type: ignore[arg-type]
