"""``predict`` as a user types it: what is there is kept if it would become the same again, and every process makes its share."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stage_runs import StageRuns
from toy_runs import CONFIGS, ROOT, arguments, checkpoint, run

import callbacks.writers.write_videos
from callbacks import WriteVideos
from datamodules.decoding.reader import probe, read_clip
from modules import load
from modules.geometry import Clip

SIZE = ("-c", CONFIGS / "sample.yaml", "--data.clip.height", 16, "--data.clip.width", 16, "--data.clip.frames", 5)


@pytest.fixture(scope="module")
def weights(stage_runs: StageRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perturbed model, because two steps of training do not separate the classes."""
    trained = torch.load(checkpoint(stage_runs.short_clips), weights_only=True)
    torch.manual_seed(1)
    perturbed = {
        name: value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value for name, value in trained["state_dict"].items()
    }
    path = tmp_path_factory.mktemp("perturbed") / "last.ckpt"
    torch.save(trained | {"state_dict": perturbed}, path)
    shutil.copy(stage_runs.short_clips / "fit.yaml", path.parent)
    return path


class Predictions:
    """Runs in one folder, and which clips each of them made."""

    def __init__(self, folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.checkpoint, self.made = folder, folder / "mine.ckpt", {}
        shutil.copy(checkpoint, self.checkpoint)
        write = callbacks.writers.write_videos.write_mp4

        def note(path: Path, video: torch.Tensor, fps: float) -> None:
            self.made[path.relative_to(folder / "samples").with_suffix("").as_posix()] = video
            write(path, video, fps)

        monkeypatch.setattr(callbacks.writers.write_videos, "write_mp4", note)

    def prompts(self, *rows: dict) -> Path:
        path = self.folder / "prompts.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    def __call__(self, prompts: Path | str, *more: object) -> list[str]:
        self.made = {}
        run("predict", "videoar", self.folder, *SIZE, "--data.prompts", prompts, "--ckpt_path", self.checkpoint, *more)
        return sorted(self.made)

    def rows(self) -> dict[str, dict]:
        lines = (self.folder / "samples/manifest.jsonl").read_text().splitlines()
        return {row["file"]: row for row in map(json.loads, lines)}


@pytest.fixture
def predict(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Predictions:
    return Predictions(tmp_path, weights, monkeypatch)


def test_finished_clips_are_kept_and_changed_prompts_generated_again(predict: Predictions) -> None:
    rows = [{"condition": "3 left", "name": "a"}, {"condition": "4 up", "name": "b"}]
    assert predict(predict.prompts(*rows)) == ["a", "b"]
    assert predict(predict.prompts(*rows)) == []
    assert predict(predict.prompts(rows[0] | {"seed": 9}, rows[1])) == ["a"]


@pytest.mark.slow
def test_only_what_is_missing_or_would_become_another_clip_is_made(predict: Predictions) -> None:
    picture = predict.folder / "start.png"
    Image.fromarray(np.full((16, 16, 3), 80, np.uint8)).save(picture)
    rows = [
        {"condition": "3 left", "name": "a"},
        {"condition": "4 up", "name": "b", "then": [[0.2, "5 up"]]},
        {"condition": "5 up", "name": "c", "prefix": "start.png"},
    ]
    prompts, samples = predict.prompts(*rows), predict.folder / "samples"
    assert predict(prompts) == ["a", "b", "c"]
    assert predict(prompts, "--data.batch_size", 1) == []
    (samples / "b.mp4").unlink()
    (samples / "a.webp").unlink()
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(picture)
    assert predict(prompts) == ["a", "b", "c"]
    assert predict(predict.prompts(rows[0] | {"seed": 9}, rows[1] | {"then": [[0.4, "5 up"]]}, rows[2])) == ["a", "b"]
    assert predict(prompts, "--model.sampler.temperature", 0.9) == ["a", "b", "c"]
    predict.checkpoint = predict.checkpoint.rename(predict.folder / "moved.ckpt")
    assert predict(prompts, "--model.sampler.temperature", 0.9) == []
    torch.save(torch.load(predict.checkpoint, weights_only=True) | {"epoch": 77}, predict.checkpoint)
    assert predict(prompts, "--model.sampler.temperature", 0.9) == ["a", "b", "c"]
    (samples / "manifest.jsonl").unlink()
    assert predict(prompts, "--model.sampler.temperature", 0.9) == ["a", "b", "c"]


def test_an_interrupted_run_goes_on(predict: Predictions, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = '["0 up", "1 up", "2 up", "3 up"]'
    with monkeypatch.context() as stopping:
        write = callbacks.writers.write_videos.write_mp4

        def stop(path: Path, video: torch.Tensor, fps: float) -> None:
            if "0002" in path.name:
                raise OSError("the disc is full")
            write(path, video, fps)

        stopping.setattr(callbacks.writers.write_videos, "write_mp4", stop)
        with pytest.raises(OSError, match="the disc is full"):
            predict(conditions, "--data.batch_size", 1)
    assert list(predict.rows()) == ["0000_0-up_seed0.mp4", "0001_1-up_seed1.mp4"]
    assert predict(conditions, "--data.batch_size", 1) == ["0002_2-up_seed2", "0003_3-up_seed3"]
    assert len(predict.rows()) == 4


def test_a_table_of_prompts_with_conditions_of_every_kind_of_file(predict: Predictions) -> None:
    table = predict.folder / "prompts.csv"
    table.write_text("name,condition,seed\nmine,3 left,7\nother,5 up,\n")
    assert predict(table, "--trainer.callbacks.init_args.formats", '["gif"]') == []
    assert {path.name for path in (predict.folder / "samples").iterdir()} == {
        "mine.gif",
        "other.gif",
        "manifest.jsonl",
        "contact_sheet.png",
    }
    assert [(row["condition"], row["seed"]) for row in predict.rows().values()] == [("3 left", 7), ("5 up", 1)]


def test_conditions_that_change_are_those_of_the_python_surface(predict: Predictions, weights: Path) -> None:
    """Two clips of one batch change at times of their own."""
    rows = [{"condition": "3 left", "frames": 13, "then": [[0.6, "5 down"], [1.1, "7 up"]]}, {"condition": "4 up", "frames": 13}]
    predict(predict.prompts(*rows))
    first, second = predict.made.values()
    model = load(weights)
    changing = model.generate("3 left", 13, seed=0, then=[(0.6, ["5 down"]), (1.1, ["7 up"])])[0]
    still, other = model.generate("3 left", 13, seed=0)[0], model.generate("4 up", 13, seed=1)[0]
    assert (changing.int() - still.int()).abs().max() > 20
    assert (first.int() - changing.int()).abs().max() <= 1 and (second.int() - other.int()).abs().max() <= 1


def test_a_prefix_of_another_shape_is_cut_and_told(predict: Predictions, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.full((40, 64, 3), 80, np.uint8)).save(predict.folder / "wide.png")
    with caplog.at_level("INFO"):
        predict(predict.prompts({"condition": "3 left", "prefix": "wide.png"}))
    (told,) = [line for line in caplog.messages if "another aspect ratio" in line]
    assert (
        "1 of 1" in told and "16 x 16" in told and "wide.png" in told and "prompts.jsonl:1" in told and "40 x 64" in told and "38%" in told
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"condition": "40"}, r"prompts\.jsonl:2: unknown class '40'; the model has 40 classes, such as 0 up"),
        ({"condition": "3 left", "then": [[0.3, "40"]]}, r"prompts\.jsonl:2: unknown class '40'"),
        ({"condition": "3 left", "frames": 7}, r"prompts\.jsonl:2: a clip must have 1 \+ 4 \* n frames, got 7; the nearest are 5 and 9"),
        (
            {"condition": "3 left", "prefix": "wide.png", "prefix_frames": 5, "frames": 9},
            r"prompts\.jsonl:2: .*wide\.png: an image has one",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is(predict: Predictions, row: dict, message: str) -> None:
    Image.fromarray(np.full((40, 64, 3), 80, np.uint8)).save(predict.folder / "wide.png")
    with pytest.raises(ValueError, match=message):
        predict(predict.prompts({"condition": "3 left"}, row), "--data.batch_size", 1)
    assert not list((predict.folder / "samples").glob("*.mp4"))


def test_a_prompt_longer_than_those_of_training_is_named(tmp_path: Path) -> None:
    words = ("--model.transformer.condition", "modules.transformer.TextCondition", "--model.transformer.condition.length", 4)
    trained = run("fit", "videoar", tmp_path / "text", *words)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a blue 3\na blue 3 moving left\na zebra 3\n")
    with pytest.warns(UserWarning) as said:
        run("predict", "videoar", tmp_path, *SIZE, *words, "--data.prompts", prompts, "--ckpt_path", trained)
    found = [str(warning.message) for warning in said if "words" in str(warning.message)]
    assert len(found) == 2
    assert found[0].endswith("prompts.txt:2: a text of 5 words was truncated to 4")
    assert found[1].endswith("prompts.txt:3: words that the model was not trained with: zebra")


def test_formats_are_at_least_one_and_different() -> None:
    for formats, found in (((), "none"), (("mp4", "gif", "mp4"), "mp4, gif, mp4")):
        with pytest.raises(ValueError, match=f"none twice, got {found}"):
            WriteVideos("clips", formats=formats)


@pytest.mark.slow
def test_two_processes_make_every_clip_once(predict: Predictions) -> None:
    conditions = json.dumps([f"{digit} up" for digit in range(5)])
    several = ("--data.batch_size", 1, "--trainer.devices", 2, "--trainer.strategy", "ddp", "--ckpt_path", predict.checkpoint)
    args = arguments("predict", "videoar", predict.folder, *SIZE, "--data.prompts", conditions, *several)
    for expected in (None, "5 of 5 clips exist already"):
        result = subprocess.run([sys.executable, "train.py", *args], cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stderr[-2000:]
        assert expected is None or expected in result.stderr + result.stdout
    rows = predict.rows()
    assert len(rows) == 5 and not list((predict.folder / "samples").glob("manifest.rank*"))
    assert all(probe(predict.folder / "samples" / file).frames == 5 for file in rows)
    before = {file: read_clip(predict.folder / "samples" / file, Clip(5, 16, 16)) for file in rows}
    shutil.rmtree(predict.folder / "samples")
    predict(conditions)
    for file, video in before.items():
        assert (read_clip(predict.folder / "samples" / file, Clip(5, 16, 16)).float() - video.float()).abs().mean() < 2
