"""The perceptual loss is LPIPS of every frame, in full precision, with weights that stay out of checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics.functional.image import lpips

from modules.tokenizer.losses import perceptual
from modules.tokenizer.losses.perceptual import PerceptualLoss

# Convolutions' widths and poolings of VGG16 in order; a rectifier follows every convolution.
VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def make_vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    width = 3
    for item in VGG16:
        if isinstance(item, int):
            convolution = nn.Conv2d(width, item, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight)
            layers += [convolution, nn.ReLU()]
            width = item
        else:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def vgg16() -> nn.Sequential:
    torch.manual_seed(0)
    return make_vgg16()


@pytest.fixture(scope="module")
def weights(vgg16: nn.Sequential) -> dict[str, Tensor]:
    named = {f"features.{name}": value.clone() for name, value in vgg16.state_dict().items()}
    return {**named, "classifier.0.weight": torch.zeros(4, 4)}


@pytest.fixture(scope="module")
def backbone(weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def loss(backbone: Path) -> PerceptualLoss:
    return PerceptualLoss(str(backbone))


def clips(frames: int = 2, size: tuple[int, int] = (32, 24)) -> tuple[Tensor, Tensor]:
    return torch.rand(2, 3, frames, *size) * 2 - 1, torch.rand(2, 3, frames, *size) * 2 - 1


@pytest.mark.parametrize("size", [(16, 16), (37, 24)])
def test_equals_the_lpips_of_torchmetrics(
    loss: PerceptualLoss, vgg16: nn.Sequential, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    assert len(vgg16) == 31
    monkeypatch.setattr(lpips, "_get_tv_model_features", lambda *_: vgg16)
    reference = lpips._LPIPS(net="vgg")
    video, original = clips(size=size)
    values = [reference(video[:, :, frame], original[:, :, frame]) for frame in range(video.shape[2])]
    torch.testing.assert_close(loss(video, original), torch.stack(values).mean())


def test_is_the_mean_over_frames_and_clips(loss: PerceptualLoss) -> None:
    video, original = clips(frames=3)
    pairs = [(video[[clip]][:, :, [frame]], original[[clip]][:, :, [frame]]) for clip in range(2) for frame in range(3)]
    values = torch.stack([loss(*pair) for pair in pairs])
    assert values.std() > 0
    torch.testing.assert_close(loss(video, original), values.mean())


def test_is_zero_for_equal_videos_and_falls_on_the_way_there(loss: PerceptualLoss) -> None:
    video, original = clips()
    far, near, there = (loss(original + share * (video - original), original).item() for share in (1.0, 0.1, 0.0))
    assert far > near > there == 0.0


def test_only_the_video_gets_a_gradient(loss: PerceptualLoss) -> None:
    video, original = (clip.requires_grad_() for clip in clips())
    loss(video, original).backward()
    assert video.grad is not None and (video.grad.abs().sum(dim=(1, 3, 4)) > 0).all()
    assert original.grad is None and not list(loss.parameters())


def test_places_without_features_count_as_equal(backbone: Path) -> None:
    loss = PerceptualLoss(str(backbone))
    loss.get_buffer("features_28_bias").fill_(-1e4)
    video, original = clips(size=(16, 16))
    value = loss(video.requires_grad_(), original)
    value.backward()
    assert video.grad is not None and video.grad.isfinite().all()
    loss.get_buffer("lin4_model_1_weight").zero_()
    assert torch.equal(value, loss(video, original))


def test_half_precision_around_it_changes_nothing(loss: PerceptualLoss) -> None:
    video, original = clips()
    full = loss(video, original)
    with torch.autocast("cpu", torch.bfloat16):
        assert (video[0, 0, 0] @ original[0, 0, 0].T).dtype == torch.bfloat16
        half = loss(video, original)
    assert half.dtype == torch.float32 and torch.equal(half, full)


def test_its_weights_move_with_it_but_are_not_saved(backbone: Path) -> None:
    loss = PerceptualLoss(str(backbone))
    assert not loss.state_dict()
    buffers = list(loss.to("meta").buffers())
    assert len(buffers) == 2 * 13 + 5 + 2 and all(buffer.device.type == "meta" for buffer in buffers)


def test_safetensors_are_read_too(loss: PerceptualLoss, weights: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(weights, tmp_path / "vgg16.safetensors")
    assert torch.equal(PerceptualLoss(str(tmp_path / "vgg16.safetensors"))(*(pair := clips())), loss(*pair))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("features.14.bias"), "broken.pth has no features.14.bias, .* \\(256,\\)"),
        (
            lambda weights: weights.update({"features.5.weight": torch.zeros(64, 64, 3, 3)}),
            "broken.pth: features.5.weight must be \\(128, 64, 3, 3\\) .* got \\(64, 64, 3, 3\\)",
        ),
    ],
)
def test_files_of_other_networks_are_refused(
    weights: dict[str, Tensor], tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    change(weights := dict(weights))
    torch.save(weights, tmp_path / "broken.pth")
    with pytest.raises(ValueError, match=message):
        PerceptualLoss(str(tmp_path / "broken.pth"))


def test_missing_files_are_named(backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        PerceptualLoss(str(tmp_path / "nowhere.pth"))
    monkeypatch.setattr(perceptual, "HEADS", tmp_path / "heads.pth")
    with pytest.raises(FileNotFoundError, match="torchmetrics lacks .*heads.pth"):
        PerceptualLoss(str(backbone))


def test_small_frames_are_refused(loss: PerceptualLoss) -> None:
    with pytest.raises(ValueError, match="at least 16 x 16 pixels, got 24 x 15"):
        loss(*clips(size=(24, 15)))
