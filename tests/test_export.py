"""A model that leaves its run: the same videos, bit for bit, from a file that tells when it was changed."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import count_parameters
from latent_runs import CACHED, make
from test_cli import AVERAGED
from test_init_from import Evil
from toy_runs import CONFIGS, compose, run, weights

from modules import load, load_tokenizer
from modules.storage.exported import about_path
from modules.storage.tensor_file import open_tensors, save_tensors
from scripts.cli import run as command
from scripts.export import export
from train import main as train

# Larger than the frozen tokenizer, as real transformers are.
LARGE = ("--model.transformer.width", 96, "--model.transformer.layers", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run("fit", "videoar", folder, *AVERAGED, *LARGE)
    return folder


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.safetensors"
    command(export, [str(folder), "--out", str(path)])
    return path


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    for path in (exported, about_path(exported)):
        shutil.copy(path, tmp_path)
    return tmp_path / exported.name


def rewrite(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A file whose checksum is right, with a JSON that belongs to it."""
    about = json.loads(about_path(path).read_text())
    about["sha256"] = save_tensors(tensors, path)
    about_path(path).write_text(json.dumps(about))
    return path


def test_an_exported_model_makes_the_videos_of_its_run(folder: Path, exported: Path) -> None:
    for options in ({"seed": 3}, {"seed": 1, "frames": 13}):
        there, here = (load(path).generate(["3 left", "7 up"], **options) for path in (folder, exported))
        assert torch.equal(there, here)


def test_it_is_small_and_says_what_it_is(folder: Path, exported: Path) -> None:
    assert exported.stat().st_size < 0.5 * (folder / "checkpoints/last.ckpt").stat().st_size
    about, config = json.loads(about_path(exported).read_text()), load(exported)
    assert about["clip"] == {"frames": 5, "height": 16, "width": 16, "fps": 8}
    assert about["scales"] == [[1, 1], [2, 2], [3, 3], [4, 4]] and about["latent_frames"] == 2
    assert about["origin"]["step"] == 2 and about["origin"]["weights"] == "averaged"
    assert about["origin"]["commit"] == json.loads((folder / "fit.environment.json").read_text())["commit"]
    count = sum(parameter.numel() for parameter in config.generation.transformer.parameters())
    assert about["parameters"]["transformer"] == count
    assert "optimizer" not in json.dumps(about)
    assert exported.stat().st_mode == about_path(exported).stat().st_mode


def test_averaged_or_raw(folder: Path, tmp_path: Path) -> None:
    training = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    for which, key in (("averaged", "state_dict"), ("raw", "current_model_state"), (None, "state_dict")):
        export(folder, out=tmp_path / "model.safetensors", weights=which)
        found = open_tensors(tmp_path / "model.safetensors")
        assert found.keys() == training[key].keys() and all(torch.equal(value, found[name]) for name, value in training[key].items())
    assert any(not torch.equal(value, training["state_dict"][name]) for name, value in training["current_model_state"].items())


def test_without_averaging_there_are_raw_weights_only(tmp_path: Path) -> None:
    plain = tmp_path / "run"
    run("fit", "videoar", plain)
    assert export(plain, out=tmp_path / "model.safetensors")["origin"]["weights"] == "raw"
    with pytest.raises(ValueError, match="has no averaged weights"):
        export(plain, out=tmp_path / "model.safetensors", weights="averaged")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a tokenizer with critics, which an export leaves out."""
    folder = tmp_path_factory.mktemp("tokenizer")
    run("fit", "tokenizer", folder, "--model.adversarial", "AdversarialLoss", "--model.adversarial.start_step", 0)
    return folder


def test_a_tokenizer_leaves_its_run_without_its_critics(tokenizer: Path, tmp_path: Path) -> None:
    path, training = tmp_path / "tokenizer.safetensors", weights(tokenizer / "checkpoints/last.ckpt")
    command(export, [str(tokenizer), "--out", str(path)])
    assert open_tensors(path).keys() == {name for name in training if name.startswith("tokenizer.")} < training.keys()
    whole, again = load_tokenizer(tokenizer), load_tokenizer(path)
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    assert torch.equal(whole(video).video, again(video).video) and not any(value.requires_grad for value in again.parameters())
    about = json.loads(about_path(path).read_text())
    assert about["tokenizer_sha256"] == again.fingerprint() and about["parameters"] == {"tokenizer": count_parameters(again)}
    for task in ("tokenizer", "videoar"):
        start = compose(task, tmp_path / task, "--init_from", path).model.tokenizer.state_dict()
        assert all(torch.equal(value, start[name]) for name, value in again.state_dict().items())
    with pytest.raises(ValueError, match=r"tokenizer\.safetensors trains a tokenizer, .*: use modules\.load_tokenizer"):
        load(path)


def test_the_tokenizer_of_a_model_is_known_by_the_same_hashes(folder: Path, exported: Path) -> None:
    known = json.loads(about_path(exported).read_text())["tokenizer_sha256"]
    assert (
        load_tokenizer(folder).fingerprint()
        == load_tokenizer(exported).fingerprint()
        == load(folder).generation.tokenizer.fingerprint()
        == known
    )
    assert known.keys() == {"encoder", "decoder"}


def test_a_model_trained_over_latents_leaves_its_run_without_an_encoder(tmp_path: Path) -> None:
    made = make(tmp_path / "made")
    run("fit", "videoar", tmp_path / "run", *CACHED, "--data.folder", made.latents, "--init_from", made.model)
    about = export(tmp_path / "run", out=tmp_path / "half.safetensors")
    assert about["tokenizer_sha256"] == {"decoder": load_tokenizer(made.model).fingerprint()["decoder"]}
    half, there = load(tmp_path / "half.safetensors"), load(tmp_path / "run")
    assert torch.equal(half.generate("3 left", seed=3), there.generate("3 left", seed=3))
    for options in ({"frames": 13}, {"prefix": torch.zeros(3, 1, 16, 16, dtype=torch.uint8)}):
        with pytest.raises(ValueError, match="the tokenizer's encoder, which this model does not have"):
            half.generate("3 left", **options)


def test_training_and_sampling_start_from_it(folder: Path, exported: Path, tmp_path: Path) -> None:
    start = compose("videoar", tmp_path, "--init_from", exported, *LARGE).model.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in weights(folder / "checkpoints/last.ckpt").items())
    sample = ("-c", CONFIGS / "sample.yaml", "--data.clip.height", 16, "--data.clip.width", 16, "--data.clip.frames", 5)
    run("predict", "videoar", tmp_path, *sample, *LARGE, "--data.prompts", '["3 left"]', "--init_from", exported)
    assert [json.loads(line)["checkpoint"] for line in (tmp_path / "samples/manifest.jsonl").read_text().splitlines()] == [str(exported)]


def test_a_changed_byte_is_noticed_wherever_it_is(copy: Path) -> None:
    whole = copy.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    places = [0, 7, 9, 30, start // 3, start // 2, start - 2, start - 1, *range(start, len(whole), len(whole) // 40), len(whole) - 1]
    for place in places:
        copy.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if place >= start:
            with pytest.raises(ValueError, match="damaged: its tensors do not match the checksum"):
                open_tensors(copy)
        # Loading first builds a model, which takes its time, and then opens the file in the same way wherever the byte is.
        if place < start or place in (start, places[-1]):
            with pytest.raises(ValueError, match=r"model\.safetensors"):
                load(copy)
    copy.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match="not a readable file"):
        load(copy)


def test_a_json_of_other_weights_is_noticed(copy: Path) -> None:
    tensors = open_tensors(copy)
    save_tensors({name: value + 1 if value.is_floating_point() else value for name, value in tensors.items()}, copy)
    with pytest.raises(ValueError, match="describes other weights"):
        load(copy)
    about_path(copy).unlink()
    with pytest.raises(FileNotFoundError, match=r"needs model\.json beside it"):
        load(copy)


def test_missing_and_strange_tensors_are_named(copy: Path) -> None:
    tensors = open_tensors(copy)
    with pytest.raises(ValueError, match=r"transformer\.head\.bias is missing in the file"):
        load(rewrite(copy, {name: value for name, value in tensors.items() if name != "transformer.head.bias"}))
    with pytest.raises(ValueError, match=r"another architecture: the model has no transformer\.other"):
        load(rewrite(copy, {**tensors, "transformer.other": torch.zeros(1)}))


def test_another_architecture_is_refused(copy: Path, exported: Path, tmp_path: Path) -> None:
    about = json.loads(about_path(copy).read_text())
    about["model"]["init_args"]["transformer"]["init_args"]["width"] = 48
    about_path(copy).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"another architecture: transformer\..* is \(\d+.*\) in the file and"):
        load(copy)
    with pytest.raises(ValueError, match="another architecture"):
        compose("videoar", tmp_path, "--init_from", exported)


def test_a_run_that_does_not_fit_its_configuration_is_not_exported(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "fit.yaml").write_text((folder / "fit.yaml").read_text().replace("layers: 4", "layers: 3"))
    shutil.copy(folder / "checkpoints/last.ckpt", tmp_path)
    with pytest.raises(ValueError, match=r"does not fit its configuration: the model has no such transformer\.blocks\.3"):
        export(tmp_path / "last.ckpt", out=tmp_path / "model.safetensors")
    assert not list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model", "class_path"), "os.system"),
        (("model", "init_args", "transformer"), "os.system"),
        (("model", "init_args", "transformer", "init_args", "rope"), "builtins.exit"),
        (("model", "init_args", "tokenizer", "class_path"), "datamodules.MovingDigits"),
    ],
)
def test_a_json_imports_nothing_but_our_classes(copy: Path, place: tuple[str, ...], value: str) -> None:
    about = json.loads(about_path(copy).read_text())
    inner = about
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    about_path(copy).write_text(json.dumps(about))
    with pytest.raises(ValueError, match=rf"model\.json names '{value}' as {place[-1]}: .* only classes of modules"):
        load(copy)


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "videoar 9"}', "no json", '{"format": "videoar 1", "sha256": "", "model": 1}'])
def test_what_is_no_description_is_refused(copy: Path, content: str) -> None:
    about_path(copy).write_text(content)
    with pytest.raises(ValueError, match=r"model\.json (has the format|does not describe)"):
        load(copy)


def test_pickles_are_refused_and_never_run(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="not a readable"):
        load(copy)
    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.ckpt")
    (tmp_path / "fit.yaml").write_text("model: {class_path: modules.LitVideoAR}")
    for path in (copy, tmp_path / "evil.ckpt"):
        with pytest.raises(SystemExit, match="error: .* is not a readable file of weights"):
            command(export, [str(path), "--out", str(tmp_path / "again.safetensors")])
    assert not (tmp_path / "evil-was-here").exists() and not (tmp_path / "again.safetensors").exists()


def test_other_peoples_safetensors_need_no_checksum(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    assert torch.equal(open_tensors(tmp_path / "a.safetensors")["a"], torch.ones(2))


def test_the_command_refuses_in_one_line(folder: Path, exported: Path, tmp_path: Path) -> None:
    for run_folder, out, message in (
        (tmp_path / "nothing", "model.safetensors", "there is no checkpoint"),
        (folder, "model.ckpt", r"weights are written to a \.safetensors file"),
    ):
        with pytest.raises(SystemExit, match=f"error: {message}"):
            command(export, [str(run_folder), "--out", str(tmp_path / out)])
    with pytest.raises(ValueError, match="files that hold only weights are loaded with --init_from"):
        train(["predict", "-c", str(CONFIGS / "videoar.yaml"), "-c", str(CONFIGS / "sample.yaml"), "--ckpt_path", str(exported)])
