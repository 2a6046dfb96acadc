"""What a user gets wrong ends in one line that names the culprit, and leaves nothing behind that looks like a result."""

import json
import os
import subprocess
import sys
from argparse import ArgumentError
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from toy_runs import CONFIGS, ROOT, arguments, compose, run

from datamodules.jsonl import read_jsonl
from modules.geometry import Clip
from modules.user_errors import errors_in_one_line, user_error
from scripts.export_digits import export
from train import check_start, main

# All that a run may leave behind that was refused: what it was asked to do, which is written whole.
RECORDS = {
    "fit.yaml",
    "predict.yaml",
    "fit.environment.json",
    "predict.environment.json",
    "hparams.yaml",
    "broken_files.jsonl",
}


class Inputs:
    """A folder of things to get wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        export(folder / "clips", 1, Clip(9, 16, 16))
        (self.clip,), (self.picture,) = ((folder / "clips").glob(f"*.{suffix}") for suffix in ("mp4", "png"))
        whole = self.clip.read_bytes()
        self.file("truncated.mp4", whole[: len(whole) // 2])
        self.file("text.mp4", b"no video")
        self.file("text.ckpt", b"no weights")
        self.file("text.safetensors", b"no weights")
        for number in range(3):
            self.file(f"{number}.mp4", whole)
        self.manifest = self.lines("manifest.jsonl", *(f'{{"path": "{number}.mp4", "caption": "a"}}' for number in range(3)))
        cli = compose("videoar", folder)
        cli.model.transformer.condition.learn_names(cli.datamodule.class_names, [])
        self.weights = folder / "trained.ckpt"
        torch.save({"state_dict": cli.model.state_dict()}, self.weights)

    def file(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def lines(self, name: str, *lines: str) -> Path:
        return self.file(name, "".join(f"{line}\n" for line in lines).encode())

    def folder_of(self, manifest: Path) -> list[object]:
        """Options that read own clips."""
        return ["--data", "datamodules.VideoFolder", "--data.manifest", manifest]

    def clips(self, *names: str) -> list[object]:
        return self.folder_of(self.lines("clips.jsonl", *(f'{{"path": "{name}", "label": "a"}}' for name in names)))

    def sample(self, *lines: str) -> list[object]:
        """Options that generate the prompts of a file."""
        prompts = self.lines("prompts.jsonl", *lines) if lines else self.folder / "gone.jsonl"
        size = [f"--data.clip.{name}={number}" for name, number in (("height", 16), ("width", 16), ("frames", 9))]
        return ["-c", CONFIGS / "sample.yaml", *size, "--data.prompts", prompts, "--data.batch_size=1", "--init_from", self.weights]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


def refusal(root: Path, command: str, task: str, *more: object) -> str:
    """The line that a user sees; only records are left behind."""
    with pytest.raises((ValueError, FileNotFoundError, ArgumentError, MisconfigurationException)) as caught:
        run(command, task, root, *more)
    line = user_error(caught.value)
    assert line and "\n" not in line and "Union" not in line
    left = [path for path in root.rglob("*") if path.is_file()]
    assert {path.name for path in left} <= RECORDS and all(yaml.safe_load(path.read_text()) for path in left)
    return line


MISTAKES: dict[str, tuple[Callable[[Inputs], list[object]], list[str]]] = {
    # What is on the command line, and what the line has to name.
    "unknown key": (lambda inputs: ["--data.clip.hight", 16], ["data", "clip.hight"]),
    "unknown key of the model": (lambda inputs: ["--model.tokenizer.bitz", 16], ["model.tokenizer", "bitz"]),
    "unknown option": (lambda inputs: ["--trainer.max_stepz", 3], ["--trainer.max_stepz"]),
    "no number": (lambda inputs: ["--model.optimizer.lr", "fast"], ["model.optimizer.lr", "fast"]),
    "unknown class of data": (lambda inputs: ["--data", "datamodules.Nothing"], ["data", "Nothing"]),
    "unknown part of a mixture": (
        lambda inputs: ["--data", CONFIGS / "data/joint_256.yaml", "--data.parts.vidoe.manifest", inputs.manifest],
        ["data.parts.vidoe has no class", "manifest", "misspelt", "data.parts.vidoe.class_path"],
    ),
    "unknown option of a part": (
        lambda inputs: ["--data", CONFIGS / "data/joint_256.yaml", "--data.parts.video.manifesto", inputs.manifest],
        ["data.parts", "manifesto"],
    ),
    "no file of settings": (lambda inputs: ["-c", inputs.folder / "gone.yaml"], ["gone.yaml"]),
    "unknown key in a file": (lambda inputs: ["-c", inputs.lines("odd.yaml", "modle: {size: 3}")], ["modle.size"]),
    "broken file of settings": (lambda inputs: ["-c", inputs.lines("broken.yaml", "data: [")], ["broken.yaml", "line 2"]),
    "frames": (lambda inputs: ["--data.clip.frames", 16], ["1 + 4 * n", "16", "13 and 17"]),
    "no frames": (lambda inputs: ["--data.clip.frames", 0], ["clip.frames must be positive, got 0"]),
    "height": (lambda inputs: ["--data.clip.height", 18], ["height", "multiple of 4", "18"]),
    "channels": (lambda inputs: ["--model.tokenizer.groups", 5], ["24", "5 norm groups"]),
    "batch": (lambda inputs: ["--data.batch_size", 100], ["16 training clips", "100"]),
    "unknown strategy": (lambda inputs: ["--trainer.strategy", "nonsense"], ["strategy='nonsense'"]),
    "half weights": (lambda inputs: ["--trainer.precision", "bf16-true"], ["one of 32-true, bf16-mixed, not bf16-true"]),
    "number of devices": (lambda inputs: ["--trainer.devices", 0], ["devices='0'"]),
    "no weights": (lambda inputs: ["--init_from", inputs.folder / "gone.ckpt"], ["gone.ckpt"]),
    "weights are text": (lambda inputs: ["--init_from", inputs.folder / "text.ckpt"], ["text.ckpt", "not a readable file of weights"]),
    "safetensors are text": (lambda inputs: ["--init_from", inputs.folder / "text.safetensors"], ["text.safetensors", "not a readable"]),
    "weights of another tokenizer": (
        lambda inputs: ["--init_from", inputs.weights, "--model.tokenizer.channels", 48],
        ["trained.ckpt", "another architecture", "tokenizer.encoder.conv_in", "(24, ", "(48, "],
    ),
    "no checkpoint": (lambda inputs: ["--ckpt_path", inputs.folder / "gone.ckpt"], ["gone.ckpt"]),
    "checkpoint is text": (lambda inputs: ["--ckpt_path", inputs.folder / "text.ckpt"], ["text.ckpt", "--init_from"]),
    "no manifest": (lambda inputs: inputs.folder_of(inputs.folder / "gone.jsonl"), ["gone.jsonl", "relative to"]),
    "manifest of nothing": (lambda inputs: inputs.clips(), ["clips.jsonl", "no lines"]),
    "a clip that is not there": (lambda inputs: inputs.clips("0.mp4", "gone.mp4"), ["clips.jsonl:2", "gone.mp4"]),
    "a video that is text": (lambda inputs: inputs.clips("text.mp4"), ["1 of 1", "clips.jsonl:1", "text.mp4"]),
    "a truncated video": (lambda inputs: inputs.clips("truncated.mp4"), ["1 of 1", "clips.jsonl:1", "truncated.mp4"]),
    "half of the videos": (lambda inputs: inputs.clips("0.mp4", "text.mp4"), ["1 of 2", "clips.jsonl:2", "text.mp4", "broken_limit"]),
    "short videos": (
        lambda inputs: [*inputs.folder_of(inputs.manifest), "--data.clip.frames", 33, "--data.clip.fps", 8],
        ["manifest.jsonl:1", "33 frames at 8 fps"],
    ),
}


# The cases of the default run: each way to a refusal once. The parts that refuse have quick tests of their own.
QUICK = {"unknown key", "unknown part of a mixture", "broken file of settings", "frames", "checkpoint is text", "half of the videos"}
QUICK |= {"unknown class", "no weights"}


def marked(cases: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in cases]


@pytest.mark.parametrize("name", marked(MISTAKES))
def test_training_refuses(inputs: Inputs, tmp_path: Path, name: str) -> None:
    options, culprits = MISTAKES[name]
    line = refusal(tmp_path / "run", "fit", "tokenizer", *options(inputs))
    assert all(culprit in line for culprit in culprits), line


SAMPLES: dict[str, tuple[Callable[[Inputs], list[object]], list[str]]] = {
    "half weights": (
        lambda inputs: [*inputs.sample('{"condition": "3 left"}'), "--trainer.precision", "bf16-true"],
        ["one of 32-true, bf16-mixed, 16-mixed, not bf16-true"],
    ),
    "no prompts": (lambda inputs: inputs.sample(), ["gone.jsonl"]),
    "no list of prompts": (lambda inputs: [*inputs.sample("{}"), "--data.prompts", "3 left"], ["'3 left'", ".jsonl"]),
    # The prompts before the wrong one are fine and must not be made in vain.
    "unknown class": (
        lambda inputs: inputs.sample('{"condition": "3 left"}', '{"condition": "3 lift"}'),
        ["prompts.jsonl:2", "unknown class '3 lift'", "3 left"],
    ),
    "length": (
        lambda inputs: inputs.sample('{"condition": "3 left"}', '{"condition": "3 up", "frames": 8}'),
        ["prompts.jsonl:2", "1 + 4 * n frames, got 8"],
    ),
    "prefix": (lambda inputs: inputs.sample('{"condition": "3 left", "prefix": "gone.png"}'), ["prompts.jsonl:1", "gone.png"]),
    "length of the prefix": (
        lambda inputs: inputs.sample(f'{{"condition": "3 left", "prefix": "{inputs.clip}", "prefix_frames": 4}}'),
        ["prompts.jsonl:1", "a prefix must have 1 + 4 * n frames, got 4"],
    ),
    "key": (lambda inputs: inputs.sample('{"condition": "3 left", "prefx": "a.png"}'), ["prompts.jsonl:1", "'prefx'"]),
    "window": (lambda inputs: [*inputs.sample('{"condition": "3 left"}'), "--model.long_video.window=10"], ["long_video.window", "10"]),
    "temperature": (lambda inputs: [*inputs.sample('{"condition": "3 left"}'), "--model.sampler.temperature=-1"], ["temperature", "-1"]),
    "no prompts at all": (lambda inputs: ["--init_from", inputs.weights], ["prompts", "MovingDigits", "configs/sample.yaml"]),
    "no weights": (lambda inputs: inputs.sample('{"condition": "3 left"}')[:-2], ["predict", "--ckpt_path", "--init_from"]),
    "no checkpoint yet": (
        lambda inputs: [*inputs.sample('{"condition": "3 left"}')[:-2], "--ckpt_path", "last"],
        ["checkpoints/last.ckpt"],
    ),
}


@pytest.mark.parametrize("name", marked(SAMPLES))
def test_sampling_refuses(inputs: Inputs, tmp_path: Path, name: str) -> None:
    options, culprits = SAMPLES[name]
    line = refusal(tmp_path / "run", "predict", "videoar", *options(inputs))
    assert all(culprit in line for culprit in culprits), line


@pytest.mark.slow
def test_sampling_refuses_a_model_that_was_never_trained(inputs: Inputs, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer.ckpt"
    torch.save({"state_dict": compose("tokenizer", tmp_path).model.state_dict()}, tokenizer)
    options = [*inputs.sample('{"condition": "3 left"}'), "--init_from", tokenizer]
    assert "has no class names" in refusal(tmp_path / "run", "predict", "videoar", *options)


def test_a_model_refuses_data_with_other_classes(inputs: Inputs, tmp_path: Path) -> None:
    line = refusal(tmp_path / "run", "fit", "videoar", *inputs.clips("0.mp4", "1.mp4", "2.mp4"))
    assert "1 classes" in line and "[10, 4]" in line and "40" in line


def test_a_word_that_is_no_command(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        main(["train", "-c", str(CONFIGS / "tokenizer.yaml")])
    line = user_error(caught.value)
    assert line and "'train'" in line and "'fit'" in line


def error_of(function: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:
        function()
    return caught.value


@pytest.mark.parametrize("subcommand", ["fit", "predict"])
def test_starts_that_cannot_work_are_refused(inputs: Inputs, tmp_path: Path, subcommand: str) -> None:
    def start(checkpoint: object, init_from: object = None) -> str | None:
        settings = {"ckpt_path": checkpoint and str(checkpoint), "init_from": init_from, "checkpoint": {"dirpath": str(tmp_path)}}
        return user_error(error_of(lambda: check_start(subcommand, settings)))  # type: ignore[arg-type]

    assert f"there is no checkpoint {tmp_path / 'gone.ckpt'}" in str(start(tmp_path / "gone.ckpt"))
    assert "is not the checkpoint of a run" in str(start(inputs.folder / "text.ckpt"))
    if subcommand == "predict":
        assert "needs trained weights: give --ckpt_path or --init_from" in str(start(None))
        assert "last.ckpt" in str(start("last", "weights.ckpt"))


@pytest.mark.parametrize("debug", ["", "1"])
def test_user_errors_end_in_one_line_unless_debugging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, debug: str) -> None:
    monkeypatch.setenv("VIDEOAR_DEBUG", debug)

    def command() -> None:
        with errors_in_one_line():
            list(read_jsonl(tmp_path / "gone.jsonl"))

    error = error_of(command)
    assert isinstance(error, ValueError if debug else SystemExit) and "gone.jsonl" in str(error)
    assert debug or str(error).startswith("error: there is no file")


@pytest.mark.parametrize("error", [TypeError, RuntimeError, KeyError])
def test_our_own_mistakes_are_not_called_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: type[Exception]) -> None:
    """Neither in training nor in a constructor, whose errors jsonargparse wraps."""

    def wrong(*_: object, **__: object) -> None:
        raise error("wrong")

    for place in ("training_step", "__init__"):
        monkeypatch.setattr(f"modules.LitTokenizer.{place}", wrong)
        with pytest.raises(Exception, match="wrong") as caught:
            run("fit", "tokenizer", tmp_path)
        assert user_error(caught.value) is None


def test_values_that_another_package_refuses_are_not_called_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("modules.LitTokenizer.training_step", lambda *_: json.loads("nothing"))
    with pytest.raises(ValueError, match="Expecting value") as caught:
        run("fit", "tokenizer", tmp_path)
    assert user_error(caught.value) is None


@pytest.mark.slow
@pytest.mark.parametrize(("debug", "option"), [("", "--data.manifest"), ("1", "--data.manifesto")])
def test_what_a_user_sees(inputs: Inputs, tmp_path: Path, debug: str, option: str) -> None:
    args = arguments("fit", "tokenizer", tmp_path / "run", "--data", "datamodules.VideoFolder", option, "gone.jsonl")
    environment = {**os.environ, "VIDEOAR_DEBUG": debug}
    result = subprocess.run([sys.executable, ROOT / "train.py", *args], cwd=tmp_path, env=environment, capture_output=True, text=True)
    *before, last = result.stderr.strip().splitlines()
    assert result.returncode == 1
    if debug:
        assert any(line.startswith("Traceback") for line in before) and option.removeprefix("--data.") in result.stderr
    else:
        assert last == f"error: there is no file gone.jsonl (relative to {tmp_path})"
        assert not any("Traceback" in line or line.startswith("usage") for line in before) and len(before) < 10, result.stderr
