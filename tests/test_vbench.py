"""VBench finds every clip it asks for under its exact name, and a clip's seed depends on its prompt and number only."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image

from callbacks import WriteVideos
from datamodules import VBenchImagePrompts, VBenchPrompts
from datamodules.decoding.reader import probe
from datamodules.predict.base import RequestedClips
from modules.batch import Requests
from modules.geometry import Clip

CLIP = Clip(5, 16, 24, 8.0)

ROWS = [
    {"prompt_en": "a still house.", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a dog", "dimension": ["subject_consistency", "dynamic_degree", "motion_smoothness"], "auxiliary_info": {"a": 1}},
    {"prompt_en": "façade, night", "dimension": ["scene", "background_consistency"]},
    {"prompt_en": "a bund", "dimension": ["overall_consistency", "aesthetic_quality", "imaging_quality"]},
    {"prompt_en": "a bund", "dimension": ["appearance_style"]},
]

IMAGE_ROWS = [
    {"prompt_en": "a cat", "dimension": ["i2v_subject"], "image_name": "a cat.jpg"},
    {"prompt_en": "a cat, camera pans left", "dimension": ["camera_motion"]},
    {"prompt_en": "a bay, camera ready", "dimension": ["i2v_background"], "image_name": "bay.jpg"},
]


def info(folder: Path, rows: Any) -> str:
    path = folder / "info.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return str(path)


def of(data: RequestedClips) -> dict[str, int]:
    """Names and seeds."""
    data.setup("predict")
    return {request.name: request.seed for request in data.requests}


def test_every_clip_has_the_name_that_vbench_looks_for(tmp_path: Path) -> None:
    still = [f"temporal_flickering/a still house.-{number}" for number in range(25)]
    others = [
        f"{stem}-{number}"
        for stem in ("subject_consistency/a dog", "scene/façade, night", "overall_consistency/a bund", "appearance_style/a bund")
        for number in range(5)
    ]
    found = of(VBenchPrompts(info(tmp_path, ROWS), clip=CLIP))
    assert list(found) == still + others and len(set(found.values())) == len(found)


def test_seeds_do_not_depend_on_what_else_is_made(tmp_path: Path) -> None:
    path = info(tmp_path, ROWS)
    every = of(VBenchPrompts(path, clip=CLIP, seed=2))
    for dimension, stem in (("dynamic_degree", "subject_consistency/a dog"), ("imaging_quality", "overall_consistency/a bund")):
        some = of(VBenchPrompts(path, clip=CLIP, seed=2, dimensions=[dimension]))
        assert some == {f"{stem}-{number}": every[f"{stem}-{number}"] for number in range(5)}
    other = of(VBenchPrompts(path, clip=CLIP, seed=3))
    assert not set(every.values()) & set(other.values())


def test_a_prompt_that_comes_twice_in_a_folder_is_made_once(tmp_path: Path) -> None:
    assert of(VBenchPrompts(info(tmp_path, [*ROWS, ROWS[1]]), clip=CLIP)) == of(VBenchPrompts(info(tmp_path, ROWS), clip=CLIP))


class Grey(LightningModule):
    """Makes grey clips, and notes which."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def predict_step(self, batch: Requests) -> dict[str, torch.Tensor]:
        self.made += batch["name"]
        size = (len(batch["name"]), 3, batch["frames"], batch["height"], batch["width"])
        return {"video": torch.full(size, 128, dtype=torch.uint8)}


def predict(data: RequestedClips, folder: Path) -> list[str]:
    model, quiet = Grey(), {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    model.weights_source = str(Path(__file__))
    trainer = Trainer(accelerator="cpu", callbacks=[WriteVideos(str(folder), formats=["mp4"])], **quiet)
    trainer.predict(model, datamodule=data, return_predictions=False)
    return model.made


def test_the_folder_is_what_vbench_expects_and_is_filled_up_after_an_interruption(tmp_path: Path) -> None:
    data, folder = VBenchPrompts(info(tmp_path, ROWS), clip=CLIP, batch_size=4), tmp_path / "vbench"
    assert len(predict(data, folder)) == 45
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.mp4")}
    assert files == {f"{name}.mp4" for name in of(data)} and "temporal_flickering/a still house.-0.mp4" in files
    assert probe(folder / "scene/façade, night-4.mp4").fps == 8.0
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert {row["file"].removesuffix(".mp4"): row["seed"] for row in rows} == of(data)
    (folder / "scene/façade, night-4.mp4").unlink()
    assert predict(data, folder) == ["scene/façade, night-4"]


def test_clips_from_pictures(tmp_path: Path) -> None:
    for name, level in (("a cat", 80), ("bay", 200)):
        Image.fromarray(np.full((16, 24, 3), level, np.uint8)).save(tmp_path / f"{name}.jpg", quality=100)
    data = VBenchImagePrompts(info(tmp_path, IMAGE_ROWS), str(tmp_path), clip=CLIP, batch_size=15)
    assert list(of(data)) == [f"{row['prompt_en']}-{number}" for row in IMAGE_ROWS for number in range(5)]
    (batch,) = data.predict_dataloader()
    assert batch["condition"][5] == "a cat, camera pans left" and batch["prefix"].shape == (15, 3, 1, 16, 24)
    assert batch["prefix"].float().mean((1, 2, 3, 4)).round().tolist() == [80.0] * 10 + [200.0] * 5
    some = of(VBenchImagePrompts(info(tmp_path, IMAGE_ROWS), str(tmp_path), clip=CLIP, dimensions=["camera_motion"]))
    assert some == {name: seed for name, seed in of(data).items() if "pans" in name}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("{}", r"info\.json is not an information file of VBench"),
        ("nonsense", r"info\.json is not an information file of VBench"),
        ([3], r"info\.json is not an information file of VBench"),
        ([], "no prompt belongs to"),
        ([ROWS[0], {"prompt_en": "a"}], r'info\.json\[1\]: "prompt_en" or "dimension" is missing'),
        ([ROWS[0], {"prompt_en": 3, "dimension": ["scene"]}], r'info\.json\[1\]: "prompt_en" must be a text, got 3'),
        ([{"prompt_en": "a/b", "dimension": ["scene"]}], r"info\.json\[0\]: the prompt cannot be a file name: 'a/b'"),
        ([{"prompt_en": "a" * 300, "dimension": ["scene"]}], r"info\.json\[0\]: the prompt cannot be a file name"),
        ([{"prompt_en": "a", "dimension": ["i2v_subject"]}], r"info\.json\[0\]: VBench 1.0 has no dimension 'i2v_subject'; it has aes"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of(VBenchPrompts(info(tmp_path, rows), clip=CLIP))


def test_what_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*gone\.json"):
        of(VBenchPrompts(str(tmp_path / "gone.json"), clip=CLIP))
    with pytest.raises(ValueError, match="dimensions: VBench 1.0 has no dimension 'motion'"):
        VBenchPrompts("info.json", dimensions=["motion"])
    with pytest.raises(ValueError, match="the seed must not be negative, got -1"):
        VBenchImagePrompts("info.json", "crop", seed=-1)
    with pytest.raises(ValueError, match=r"info\.json\[0\]: .*gone\.jpg: there is no such file"):
        of(VBenchImagePrompts(info(tmp_path, [{"prompt_en": "gone, camera static", "dimension": ["camera_motion"]}]), str(tmp_path)))
    with pytest.raises(ValueError, match=r'info\.json\[0\]: "image_name" is missing'):
        of(VBenchImagePrompts(info(tmp_path, [{"prompt_en": "gone", "dimension": ["i2v_subject"]}]), str(tmp_path)))
