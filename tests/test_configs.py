"""Every file in ``configs`` composes with the tasks it belongs to, and so does every command that README and ``make demo`` show.

Files are found by what they hold, so a new one is tested without a change here. Models are built on the meta device, where the paper's
sizes take no memory.
"""

import inspect
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from conftest import count_parameters
from toy_runs import CONFIGS, ROOT

import modules
from datamodules.predict.prompt_files import Defaults, make_requests
from modules.storage.text_features import EncoderIdentity, FeatureCache, write_cache
from train import VideoARCLI, main

TASKS = {"tokenizer": modules.LitTokenizer, "videoar": modules.LitVideoAR}
# Protocols are no part of a run but of an evaluation (test_results.py).
FILES = sorted(file.relative_to(CONFIGS) for file in CONFIGS.rglob("*.yaml") if file.parent.name != "protocol")
PROMPTS = ("datamodules.Prompts", "datamodules.VBenchPrompts", "datamodules.VBenchImagePrompts")
SOURCES = {**{name: {"sampler"} for name in PROMPTS}, "datamodules.VideoFiles": {"loss"}}
OPTIONS = {"VideoTokenizer": "--model.tokenizer", "VideoARTransformer": "--model.transformer"}


def content(file: Path) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / file).read_text())


def is_task(file: Path) -> bool:
    return file.stem in TASKS and file.parent == Path()


def is_part(file: Path) -> bool:
    """A file that is the value of one option; others are overlays."""
    return "class_path" in content(file)


def option(file: Path) -> list[str]:
    """How a file joins a command line."""
    name = content(file)["class_path"] if is_part(file) else ""
    key = "--data" if name.startswith("datamodules.") else OPTIONS[name.rsplit(".")[-1]] if name else "-c"
    return [key, str(CONFIGS / file)]


def tasks_of(file: Path) -> list[str]:
    """The tasks whose model has the arguments that a file sets, or that the data of a file is for."""
    values = content(file)
    if is_part(file):
        parts = {"tokenizer": {"--data", "--model.tokenizer"}, "videoar": {"--data", *OPTIONS.values()}}
        return [task for task, keys in parts.items() if option(file)[0] in keys]
    wanted = set(values.get("model", {}).get("init_args", {}))
    data = values.get("data", {})
    if isinstance(data, str):  # a file, relative to this one
        data = content((CONFIGS / file).parent.joinpath(data).resolve().relative_to(CONFIGS.resolve()))
    wanted |= SOURCES.get(data.get("class_path"), set())
    return [task for task, model in TASKS.items() if wanted <= set(inspect.signature(model).parameters)]


# What the machine that runs the tests may not have.
HARDWARE = {".trainer.accelerator": "--trainer.accelerator=cpu", ".trainer.devices": "--trainer.devices=1"}

PAIRS = [(file, task) for file in FILES if not is_task(file) for task in tasks_of(file)]


def cases() -> Iterator[Any]:
    """Yield every pair; those after the first of a file are slow, all together."""
    seen: set[Path] = set()
    for file, task in PAIRS:
        yield pytest.param(file, task, id=f"{file}-{task}", marks=[pytest.mark.slow] if file in seen else [])
        seen.add(file)


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that does all that a command does before its first step, on the meta device and without reading weights."""
    for place in ("train.VideoARCLI._run_subcommand", "train.check_start", "train.load_weights"):
        monkeypatch.setattr(place, lambda *_: None)
    nothing = "modules.tokenizer.losses.perceptual._read"
    monkeypatch.setattr(nothing, lambda _, shapes: {name: torch.zeros(shape) for name, shape in shapes.items()})
    write_cache(tmp_path / "features.safetensors", EncoderIdentity("none", ""), ["a text"], [torch.zeros(1, 4)])
    features = FeatureCache(tmp_path / "features.safetensors")
    monkeypatch.setattr("modules.transformer.feature_condition.FeatureCache", lambda _: features)
    monkeypatch.chdir(ROOT)

    def compose(*args: str) -> VideoARCLI:
        with torch.device("meta"):
            cli = main([*args, "--trainer.default_root_dir", str(tmp_path), *HARDWARE.values()])
        if hasattr(cli.datamodule, "clip"):
            for clip in [cli.datamodule.clip, *getattr(cli.datamodule, "train_clips", [])]:
                cli.model.tokenizer.layout(clip)
        return cli

    return compose


def test_every_file_belongs_to_a_task() -> None:
    assert {file.stem for file in FILES if is_task(file)} == set(TASKS)
    assert {file for file, _ in PAIRS} == {file for file in FILES if not is_task(file)}


@pytest.mark.parametrize("task", TASKS)
def test_tasks_can_be_built_alone(task: str) -> None:
    with patch.object(VideoARCLI, "_run_subcommand"):
        cli = main(["fit", "-c", str(CONFIGS / f"{task}.yaml")])
    assert type(cli.model) is TASKS[task] and cli.trainer.max_steps > 0
    assert all(parameter.isfinite().all() and parameter.device.type == "cpu" for parameter in cli.model.parameters())


@pytest.mark.parametrize(("file", "task"), list(cases()))
def test_files_compose_to_their_values_and_sizes(composed: Any, file: Path, task: str) -> None:
    command = "predict" if "return_predictions" in content(file) else "fit"
    transformer = is_part(file) and option(file)[0] == OPTIONS["VideoARTransformer"]
    tokenizer = f"configs/size/tokenizer_{'tiny' if file.stem.endswith('tiny') else 'base'}.yaml"
    cli = composed(command, "-c", f"configs/{task}.yaml", *([OPTIONS["VideoTokenizer"], tokenizer] if transformer else []), *option(file))
    config = cli.config[command].as_dict()
    if is_part(file):
        *_, name = option(file)[0].split(".")
        config = config["data"] if name == "--data" else config["model"]["init_args"][name]
        if name != "--data":
            check_parameters(file, getattr(cli.model, name))
    assert not differences(content(file), config)


def check_parameters(file: Path, module: torch.nn.Module) -> None:
    """Compare the number of parameters with the one in the file's comment, to its last digit."""
    claim = re.search(r"([\d.]+) ([MB]) parameters", (CONFIGS / file).read_text())
    assert claim, f"{file} does not say how many parameters it has"
    digits = len(claim[1].partition(".")[2])
    assert f"{count_parameters(module) / {'M': 1e6, 'B': 1e9}[claim[2]]:.{digits}f}" == claim[1]
    assert all(parameter.is_meta for parameter in module.parameters())


def differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """What a file says and the composed configuration does not."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        if "init_args" in found and not wanted.keys() & found.keys():  # arguments of a class that the option names
            found = found["init_args"]
        return [line for key, value in wanted.items() for line in differences(value, found.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list | tuple) and len(wanted) == len(found):
        return [line for number, value in enumerate(wanted) for line in differences(value, found[number], f"{path}[{number}]")]
    given_elsewhere = path in HARDWARE or "${" in str(wanted) or str(wanted).endswith(".yaml")
    return [] if wanted == found or given_elsewhere else [f"{path}: {wanted} became {found}"]


def test_prompts_can_be_generated(composed: Any) -> None:
    """By the model that the task trains alone."""
    cli, files = composed("fit", "-c", "configs/videoar.yaml"), sorted(CONFIGS.glob("prompts/*.jsonl"))
    requests = [request for file in files for request in make_requests(str(file), Defaults(cli.datamodule.clip.frames))]
    assert len(requests) >= len(files) > 0
    for request in requests:
        assert request.condition in cli.datamodule.class_names
        cli.model.tokenizer.latent_frames(request.frames)


def commands_of_readme() -> list[list[str]]:
    """What follows ``train.py`` in README's blocks of shell, as a shell understands it."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    shell = "".join(['python() { printf "%s\\0" "$@"; printf "\\n"; }\n', *(block for block in blocks if "train.py" in block)])
    with TemporaryDirectory() as nowhere:
        # Without a PATH nothing but this function is found.
        shown = subprocess.run([shutil.which("bash") or "bash", "-c", shell], cwd=nowhere, env={"PATH": ""}, capture_output=True, text=True)
    return [line.split("\0")[1:-1] for line in shown.stdout.splitlines() if line.startswith("train.py\0")]


def commands_of_demo() -> list[list[str]]:
    """What follows ``train.py`` in the commands of ``make demo``, none of which is run."""
    shown = subprocess.run(["make", "--dry-run", "demo", "RUNS=nowhere"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [shlex.split(line)[2:] for line in shown.stdout.splitlines() if re.match(r"\S*python train\.py ", line)]


COMMANDS = [*commands_of_readme(), *commands_of_demo()]


def without_runs(command: list[str]) -> list[str]:
    """A command with the options of an earlier one in the place of the ``fit.yaml`` that it would have left."""
    root = "--trainer.default_root_dir"
    runs = {f"{earlier[earlier.index(root) + 1]}/fit.yaml": earlier[1:] for earlier in COMMANDS if earlier[0] == "fit" and root in earlier}
    words: list[str] = []
    for word in command:
        if word in runs:
            words.pop()  # its -c
        words += runs.get(word, [word])
    return words


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command[:3]))
def test_commands_of_readme_and_demo_compose(composed: Any, command: list[str]) -> None:
    composed(*without_runs(command))


def test_there_are_commands_to_test() -> None:
    assert len(commands_of_readme()) >= 5 and len(commands_of_demo()) >= 7
    assert {command[0] for command in COMMANDS} == {"fit", "test", "predict"}
