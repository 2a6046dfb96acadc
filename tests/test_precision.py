"""Fewer bits for the weights: close to the full ones, fewer bytes, and chosen by measurement where it is a matter of time."""

import copy
import json
from pathlib import Path

import pytest
import torch
from conftest import make_transformer, perturbed
from test_graphs import recorded
from test_graphs import run as logits_of
from torch import nn
from toy_runs import CONFIGS, run

from modules import load
from modules.transformer import FeatureCondition, TextCondition, VideoARTransformer
from modules.transformer.decoding import precision
from modules.transformer.decoding.precision import Int8Linear, Numbers, Precision, bfloat16_pays, choose
from modules.videoar import VideoAR

INT8, BFLOAT16 = Numbers(torch.float32, int8=True), Numbers(torch.bfloat16, int8=False)


def weight_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def held(transformer: VideoARTransformer, numbers: Numbers) -> VideoARTransformer:
    twin = copy.deepcopy(transformer)
    twin.hold(numbers)
    return twin


@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_is_off_by_half_a_step_of_its_row(bias: bool) -> None:
    layer = nn.Linear(24, 10, bias=bias)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-3, 3, 10)[:, None])
        layer.weight[3] = 0.0
    inputs = torch.randn(5, 24)
    step = layer.weight.abs().amax(dim=1) / 127
    off = (Int8Linear(layer)(inputs) - layer(inputs)).abs()
    assert (off <= inputs.abs().sum(dim=1)[:, None] * step / 2 + 1e-3 * step).all() and off.max() > 0


@torch.no_grad()
def test_the_blocks_take_a_quarter_or_half_of_their_bytes() -> None:
    plain = VideoARTransformer(8, lambda width: TextCondition(width), width=256, layers=2, heads=2)
    whole = weight_bytes(plain.blocks)
    assert weight_bytes(held(plain, INT8).blocks) < 0.26 * whole
    assert weight_bytes(held(plain, BFLOAT16).blocks) == 0.5 * whole
    assert weight_bytes(held(plain, Numbers(torch.bfloat16, int8=True)).blocks) < 0.26 * whole


@pytest.mark.parametrize(("numbers", "most"), [(INT8, 0.05), (BFLOAT16, 0.05), (Numbers(torch.bfloat16, int8=True), 0.07)], ids=str)
@pytest.mark.parametrize("settings", [{}, {"history": "last_scale"}, {"adaptive_norm": "none"}], ids=str)
@torch.no_grad()
def test_logits_stay_close(numbers: Numbers, most: float, settings: dict) -> None:
    plain = perturbed(make_transformer(**settings)).eval()
    full, found = logits_of(plain, 0), logits_of(held(plain, numbers), 0)
    assert found.dtype == torch.float32 and not torch.equal(found, full)
    assert (found - full).square().mean().sqrt() < most * full.std()


@torch.no_grad()
def test_texts_too(tmp_path: Path) -> None:
    from fake_encoder import FakeEncoder

    from modules.storage.text_features import write_cache

    path = tmp_path / "features.safetensors"
    write_cache(path, FakeEncoder().identity, ["a cat"], FakeEncoder().encode(["a cat"]))
    for condition in (lambda width: FeatureCondition(width, str(path), 2), lambda width: TextCondition(width, 20, 2)):
        plain = perturbed(VideoARTransformer(8, condition, width=48, layers=1, heads=2)).eval()
        ids = plain.condition.of_texts(["a cat", "a cat"])
        plain.condition.of_batch = lambda *_, ids=ids: ids
        full, found = logits_of(plain, 0, frames=3), logits_of(held(plain, BFLOAT16), 0, frames=3)
        assert (found - full).square().mean().sqrt() < 0.05 * full.std()


@torch.no_grad()
def test_recorded_steps_do_not_outlive_the_weights_they_were_recorded_with() -> None:
    plain = perturbed(make_transformer()).eval()
    replayed = recorded(plain)
    logits_of(replayed, 0)
    for transformer in (plain, replayed):
        transformer.hold(INT8)
    assert torch.equal(logits_of(replayed, 0), logits_of(plain, 0))


@pytest.mark.parametrize(("bfloat16", "pays"), [(0.5, True), (0.95, False), (30.0, False)])
def test_a_cpu_takes_what_takes_less_time(monkeypatch: pytest.MonkeyPatch, bfloat16: float, pays: bool) -> None:
    layer, measured = nn.Linear(8, 8), []

    def seconds(inputs: torch.Tensor, weight: torch.Tensor) -> float:
        assert inputs.dtype == weight.dtype
        measured.append(inputs.dtype)
        return bfloat16 if inputs.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(precision, "_seconds", seconds)
    assert bfloat16_pays(layer.weight) == pays
    dtype = torch.bfloat16 if pays else torch.float32
    assert choose("auto", layer) == (dtype, False) and choose("int8", layer) == (dtype, True)
    measured.clear()
    assert choose("float32", layer) == (torch.float32, False) and choose("bfloat16", layer) == (torch.bfloat16, False)
    assert choose("auto", layer.to("meta")) == (torch.float32, False) and not measured
    assert [str(numbers) for numbers in (INT8, BFLOAT16)] == ["float32, weights int8", "bfloat16"]


def test_a_real_measurement_ends() -> None:
    assert bfloat16_pays(torch.ones(64, 64)) in (True, False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run("fit", "videoar", folder)
    return folder


@pytest.mark.parametrize("wish", ["int8", "bfloat16"])
def test_one_option_of_predict_and_of_load(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: Precision) -> None:
    monkeypatch.setattr(precision, "bfloat16_pays", lambda weight: False)
    size = ("--data.clip.height", 16, "--data.clip.width", 16, "--data.clip.frames", 9, "--data.prompts", '["3 left"]')
    option = ("--model.transformer.execution.precision", wish, "--ckpt_path", folder / "checkpoints/last.ckpt")
    shown: list[torch.Tensor] = []
    monkeypatch.setattr("callbacks.writers.write_videos.write_mp4", lambda path, video, fps: shown.append(video))
    run("predict", "videoar", tmp_path, "-c", CONFIGS / "sample.yaml", *size, *option)
    (row,) = (json.loads(line) for line in (tmp_path / "samples/manifest.jsonl").read_text().splitlines())
    assert row["settings"]["precision"] == {"int8": "32-true, float32, weights int8", "bfloat16": "32-true, bfloat16"}[wish]
    model: VideoAR = load(folder, precision=wish)
    kinds = {type(module) for module in model.generation.transformer.blocks.modules()}
    assert (Int8Linear in kinds) == (wish == "int8")
    assert (model.generate("3 left", 9)[0].int() - shown[0].int()).abs().max() <= 1
