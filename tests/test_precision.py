"""bfloat16 weights halve the bytes, and logits stay close to float32."""

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
from modules.transformer import Execution, FeatureCondition, TextCondition, VideoARTransformer
from modules.videoar import VideoAR


def weight_bytes(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def in_bfloat16(transformer: VideoARTransformer) -> VideoARTransformer:
    twin = copy.deepcopy(transformer)
    twin.cast_weights(torch.bfloat16)
    return twin


@torch.no_grad()
def test_bfloat16_halves_the_bytes_of_the_blocks() -> None:
    plain = VideoARTransformer(8, lambda width: TextCondition(width), width=256, layers=2, heads=2)
    whole = weight_bytes(plain.blocks)
    assert weight_bytes(in_bfloat16(plain).blocks) == 0.5 * whole


@pytest.mark.parametrize("settings", [{}, {"history": "last_scale"}, {"adaptive_norm": "none"}], ids=str)
@torch.no_grad()
def test_logits_stay_close(settings: dict) -> None:
    plain = perturbed(make_transformer(**settings)).eval()
    full, found = logits_of(plain, 0), logits_of(in_bfloat16(plain), 0)
    assert found.dtype == torch.float32 and not torch.equal(found, full)
    assert (found - full).square().mean().sqrt() < 0.05 * full.std()


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
        full, found = logits_of(plain, 0, frames=3), logits_of(in_bfloat16(plain), 0, frames=3)
        assert (found - full).square().mean().sqrt() < 0.05 * full.std()


@torch.no_grad()
def test_recorded_steps_do_not_outlive_the_weights_they_were_recorded_with() -> None:
    plain = perturbed(make_transformer()).eval()
    replayed = recorded(plain)
    logits_of(replayed, 0)
    for transformer in (plain, replayed):
        transformer.cast_weights(torch.bfloat16)
    assert torch.equal(logits_of(replayed, 0), logits_of(plain, 0))


def test_unknown_precisions_are_refused_with_an_alternative() -> None:
    for precision in ("int8", "auto"):
        with pytest.raises(ValueError, match=f"got '{precision}'; for int8 weights, apply torchao"):
            Execution(precision=precision)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run("fit", "videoar", folder)
    return folder


def test_one_option_of_predict_and_of_load(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = ("--data.clip.height", 16, "--data.clip.width", 16, "--data.clip.frames", 9, "--data.prompts", '["3 left"]')
    option = ("--model.transformer.execution.precision", "bfloat16", "--ckpt_path", folder / "checkpoints/last.ckpt")
    shown: list[torch.Tensor] = []
    monkeypatch.setattr("callbacks.writers.write_videos.write_mp4", lambda path, video, fps: shown.append(video))
    run("predict", "videoar", tmp_path, "-c", CONFIGS / "sample.yaml", *size, *option)
    (row,) = (json.loads(line) for line in (tmp_path / "samples/manifest.jsonl").read_text().splitlines())
    assert row["settings"]["precision"] == "32-true, bfloat16"
    model: VideoAR = load(folder, precision="bfloat16")
    assert (model.generate("3 left", 9)[0].int() - shown[0].int()).abs().max() <= 1
