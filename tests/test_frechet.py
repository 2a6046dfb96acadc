"""The distances equal independent computations, whatever the batches and processes; features are what they say."""

import warnings
from pathlib import Path

import pytest
import torch
from conftest import count_parameters
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torchmetrics.image.kid import poly_mmd

from modules.metrics import (
    FrameFeatures,
    FrechetVideoDistance,
    MobileNetFeatures,
    RandomFeatures,
    ScriptedFrameFeatures,
    VideoFeatures,
    frechet_distance,
    kernel,
    kernel_distance,
)
from modules.metrics.features.mobilenet import MobileNet


def clips(count: int, frames: int = 5, size: int = 16, shift: int = 0) -> Tensor:
    """Random patterns that move to the right."""
    chance = torch.Generator().manual_seed(count + shift)
    first = torch.randint(shift, 200 + shift, (count, 3, 1, size, size), generator=chance, dtype=torch.uint8)
    return torch.cat([first.roll(step, dims=4) for step in range(frames)], dim=2)


def independent(real: Tensor, made: Tensor) -> float:
    """By symmetric square roots, in float64, from the two sets as a whole."""

    def root(matrix: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    real, made = real.double(), made.double()
    first, second = real.T.cov(), made.T.cov()
    inner = root(first) @ second @ root(first)
    return ((real.mean(0) - made.mean(0)).square().sum() + (first + second).trace() - 2 * root(inner).trace()).item()


def test_equals_an_independent_computation() -> None:
    mix = torch.randn(40, 40)
    for offset in (0.0, 1000.0):
        real, made = torch.randn(300, 40) @ mix + offset, torch.randn(200, 40) @ mix.T + offset + 1
        assert frechet_distance(real, made) == pytest.approx(independent(real, made), rel=1e-6)


def test_keeps_the_digits_that_float32_would_lose() -> None:
    real = torch.randn(300, 8) * 1e-3 + 100
    made = torch.randn(300, 8) * 1e-3 + 100.001
    assert frechet_distance(real, made) == pytest.approx(independent(real, made), rel=1e-6)


def test_equal_sets_have_no_distance() -> None:
    vectors = torch.randn(100, 12)
    assert frechet_distance(vectors, vectors[torch.randperm(100)]) == pytest.approx(0.0, abs=1e-6)


def test_shared_variances_leave_the_distance_of_the_means() -> None:
    vectors = torch.randn(1000, 6).double()
    assert frechet_distance(vectors, vectors + 0.5) == pytest.approx(6 * 0.25, rel=1e-9)


def test_fewer_videos_than_dimensions_warn() -> None:
    with pytest.warns(UserWarning, match="12 videos in 12 dimensions"):
        frechet_distance(torch.randn(12, 12), torch.randn(30, 12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(torch.randn(13, 12), torch.randn(30, 12))


def test_one_video_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two videos on each side, got 1"):
        frechet_distance(torch.randn(1, 2), torch.randn(5, 2))


def test_the_reference_falls_with_the_number_of_videos() -> None:
    vectors = torch.randn(4000, 20)
    references = [frechet_distance(vectors[:size], vectors[size : 2 * size]) for size in (50, 200, 2000)]
    assert references[0] > 2 * references[1] > 8 * references[2] > 0


# The kernel distance


def slow_kernel_distance(real: Tensor, made: Tensor) -> float:
    """Pair by pair, after its definition."""

    def mean(one: Tensor, other: Tensor, same: bool) -> float:
        pairs = [(x, y) for i, x in enumerate(one) for j, y in enumerate(other) if not (same and i == j)]
        return sum((float(x @ y) / len(x) + 1) ** 3 for x, y in pairs) / len(pairs)

    return mean(real, real, True) + mean(made, made, True) - 2 * mean(real, made, False)


def test_kernel_distance_equals_its_definition_and_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    real, made = torch.randn(30, 6).double(), torch.randn(21, 6).double() + 0.3
    expected = slow_kernel_distance(real, made)
    assert kernel_distance(real, made) == pytest.approx(expected, rel=1e-9) and expected > 0.1
    assert kernel_distance(real[:21], made) == pytest.approx(poly_mmd(real[:21], made).item(), rel=1e-9)
    monkeypatch.setattr(kernel, "CHUNK", 4)
    assert kernel_distance(real, made[torch.randperm(21)]) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_has_no_bias_however_few_the_videos() -> None:
    vectors = torch.randn(4000, 20)
    few = [kernel_distance(*vectors[start : start + 40].split(20)) for start in range(0, 4000, 40)]
    assert min(few) < 0 < max(few) and abs(sum(few) / len(few)) < 0.3 * max(map(abs, few))
    with pytest.raises(ValueError, match="at least two videos on each side, got 1"):
        kernel_distance(vectors[:1], vectors)


def test_only_the_kernel_distance_of_fvd_is_called_kvd() -> None:
    assert kernel.kernel_title("FVD") == "KVD"
    assert kernel.kernel_title(RandomFeatures().title) == "kernel distance, features random convolutions (seed 0, 8-16-24)"
    assert kernel.kernel_title("mine") == "kernel distance, mine"


def measured(order: Tensor, batch: int) -> float:
    distance = FrechetVideoDistance(RandomFeatures(widths=(4, 4)))
    for real, videos in ((True, clips(40)), (False, clips(40, shift=20)[order])):
        for part in videos.split(batch):
            distance.update(part, real=real)
    return distance.compute().item()


def test_neither_order_nor_batches_matter() -> None:
    whole = measured(torch.arange(40), 40)
    assert whole > 0 and measured(torch.randperm(40), 7) == pytest.approx(whole, rel=1e-7)


def rank(number: int, rendezvous: str, folder: str) -> None:
    """One of two processes, of which the first has more videos than the other."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=number, world_size=2)
    distance = FrechetVideoDistance(RandomFeatures(widths=(4, 4)))
    for real, videos in ((True, clips(40)), (False, clips(40, shift=20))):
        distance.update(videos[:30] if number == 0 else videos[30:], real=real)
    torch.save(distance.compute(), Path(folder) / f"{number}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    spawn(rank, (str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{number}.pt", weights_only=True).item() for number in range(2)]
    assert found[0] == found[1] == pytest.approx(measured(torch.arange(40), 40), rel=1e-7)


# Features


def test_random_features_are_the_same_everywhere() -> None:
    features, again, other = RandomFeatures(), RandomFeatures(), RandomFeatures(seed=1)
    video = clips(3)
    assert features(video).shape == (3, features.num_features) and features(video).dtype == torch.float64
    assert torch.equal(features(video), again(video)) and features.fingerprint() == again.fingerprint()
    assert not torch.equal(features(video), other(video)) and features.fingerprint() != other.fingerprint()
    assert "seed 0" in features.title and "FVD" not in features.title


def test_the_half_about_change_sees_time_and_the_other_half_does_not() -> None:
    features, video = RandomFeatures(), clips(4)
    still, moving = features(video).chunk(2, dim=1)
    shuffled_still, shuffled_moving = features(video[:, :, [0, 3, 1, 4, 2]]).chunk(2, dim=1)
    torch.testing.assert_close(still, shuffled_still)
    assert (shuffled_moving - moving).abs().max() > 1e-3
    assert features(video[:, :, :1].expand_as(video)).chunk(2, dim=1)[1].eq(0).all()


def test_features_are_those_of_every_video_alone() -> None:
    features, video = RandomFeatures(), clips(5)
    torch.testing.assert_close(features(video), torch.cat([features(one[None]) for one in video]))


def test_images_have_features_too() -> None:
    assert RandomFeatures()(clips(2, frames=1)).isfinite().all()


class Colours(nn.Module):
    """A network that gives vectors, as classifiers do."""

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace")
def test_any_network_of_images_will_do(tmp_path: Path) -> None:
    video = clips(3)
    own = FrameFeatures(Colours(), "colours")
    torch.testing.assert_close(own(video)[:, :3], video.double().mean(dim=(2, 3, 4)) / 255)
    assert own.title == "Fréchet distance, features colours"
    torch.jit.trace(Colours(), torch.rand(1, 3, 16, 16)).save(str(tmp_path / "colours.pt"))
    scripted = ScriptedFrameFeatures(str(tmp_path / "colours.pt"), size=16)
    torch.testing.assert_close(scripted(video), own(video))
    assert "colours (" in scripted.title


def test_mobilenet_has_the_layout_of_its_public_file(tmp_path: Path) -> None:
    network = MobileNet()
    weights = dict(network.state_dict()) | {"classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}
    # The published network has 3,504,872 parameters.
    assert count_parameters(network) + 1000 * 1281 == 3_504_872
    assert weights["features.1.conv.0.0.weight"].shape == (32, 1, 3, 3) and weights["features.18.1.bias"].shape == (1280,)
    assert weights["features.17.conv.2.weight"].shape == (320, 960, 1, 1) and weights["features.17.conv.3.running_var"].shape == (320,)
    torch.save(weights, tmp_path / "mobilenet.pth")
    features = MobileNetFeatures(str(tmp_path / "mobilenet.pth"), layers=14, size=32)
    assert features(clips(2)).shape == (2, 192) and "14 of 19 layers of MobileNetV2" in features.title
    del weights["features.5.conv.1.0.weight"]
    torch.save(weights, tmp_path / "mobilenet.pth")
    with pytest.raises(ValueError, match=r"is not MobileNetV2: features.5.conv.1.0.weight must be \(192, 1, 3, 3\), got nothing"):
        MobileNetFeatures(str(tmp_path / "mobilenet.pth"))
    with pytest.raises(ValueError, match="layers 1 to 19, got 20"):
        MobileNetFeatures("nothing.pth", layers=20)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="uint8 videos.*got torch.float32"):
        RandomFeatures()(clips(1).float())
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(ValueError, match="text.pt is not a TorchScript file"):
        ScriptedFrameFeatures(str(tmp_path / "text.pt"))
    with pytest.raises(FileNotFoundError, match="there is no file nothing.pt"):
        ScriptedFrameFeatures("nothing.pt")


class Wrong(VideoFeatures):
    num_features, title = 4, "wrong"

    def fingerprint(self) -> str:
        return "wrong"

    def vectors(self, video: Tensor) -> Tensor:
        return torch.full((len(video), 4), torch.nan)


def test_a_network_that_gives_no_numbers_is_found_out() -> None:
    with pytest.raises(ValueError, match="wrong: expected finite vectors of 4 numbers"):
        Wrong()(clips(2))
