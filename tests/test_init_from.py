"""A file is taken whole or refused with the first culprit named; pictures become video."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import make_transformer
from torch import nn

from modules.init_from import load_weights, read_weights
from modules.tokenizer import VideoTokenizer


class Parts(nn.Module):
    def __init__(self, temporal_factor: int = 1, bits: int = 8, transformer: bool = False) -> None:
        super().__init__()
        self.tokenizer = VideoTokenizer(bits=bits, channels=24, multipliers=(1, 2, 1), blocks=1, temporal_factor=temporal_factor)
        if transformer:
            self.transformer = make_transformer()


def save(module: nn.Module, path: Path) -> Path:
    torch.save({"state_dict": module.state_dict(), "epoch": 1}, path)
    return path


def test_image_tokenizer_becomes_a_video_tokenizer_that_equals_it(tmp_path: Path) -> None:
    image, video = Parts(1), Parts(4)
    report = load_weights(video, save(image, tmp_path / "image.ckpt"))
    assert report.inflated and report.copied and not report.initialised
    assert "inflated from 2D to 3D" in str(report)
    picture = torch.randn(1, 3, 1, 16, 16)
    torch.testing.assert_close(video.tokenizer(picture).video, image.tokenizer(picture).video, rtol=0, atol=1e-5)


def test_a_part_the_file_has_nothing_of_is_newly_initialised_and_said(tmp_path: Path) -> None:
    report = load_weights(Parts(4, transformer=True), save(Parts(4), tmp_path / "tokenizer.ckpt"))
    assert {name.split(".")[0] for name in report.initialised} == {"transformer"}
    report = load_weights(Parts(4), save(Parts(4, transformer=True), tmp_path / "all.ckpt"))
    assert {name.split(".")[0] for name in report.unused} == {"transformer"}


def test_safetensors_give_back_every_bit(tmp_path: Path) -> None:
    source, target = Parts(4, transformer=True), Parts(4, transformer=True)
    source.transformer.condition.learn_names([f"class {number}" for number in range(6)], [])
    safetensors.torch.save_file(source.state_dict(), tmp_path / "all.safetensors")
    load_weights(target, tmp_path / "all.safetensors")
    assert all(torch.equal(value, target.state_dict()[name]) for name, value in source.state_dict().items())
    assert target.transformer.condition.names == source.transformer.condition.names


def test_another_architecture_is_refused_with_the_culprit_and_changes_nothing(tmp_path: Path) -> None:
    target = Parts(4, bits=12)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"another architecture: tokenizer\.encoder\.conv_out.*\(8, .*\(12, "):
        load_weights(target, save(Parts(4), tmp_path / "other.ckpt"))
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_a_video_tokenizer_does_not_become_an_image_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another architecture"):
        load_weights(Parts(1), save(Parts(4), tmp_path / "video.ckpt"))


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    state = Parts(1).state_dict()
    del state["tokenizer.decoder.norm_out.norm.bias"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"decoder\.norm_out\.norm\.bias is missing"):
        load_weights(Parts(1), tmp_path / "part.pt")


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing.ckpt"):
        read_weights(tmp_path / "nothing.ckpt")
    for name in ("text.ckpt", "text.safetensors"):
        (tmp_path / name).write_text("no weights at all")
        with pytest.raises(ValueError, match=f"{name} is not a readable file of weights"):
            read_weights(tmp_path / name)
    torch.save({"state_dict": {"something": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="no weights for this model: it has something"):
        load_weights(Parts(1), tmp_path / "foreign.ckpt")


class Evil:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("evil-was-here"),))


def test_pickled_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "evil": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="not a readable file"):
        read_weights(tmp_path / "evil.ckpt")
    assert not (tmp_path / "evil-was-here").exists()
