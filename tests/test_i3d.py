"""I3D has the layout of its public file; only the two files of the field give FVD. Neither was at hand: weights here are random."""

import hashlib
from pathlib import Path

import pytest
import torch
from conftest import count_parameters
from torch import Tensor, nn

from modules.metrics import I3D
from modules.metrics.features import i3d
from modules.metrics.features.i3d_network import I3DNetwork, Unit, pool, same


@pytest.fixture
def network() -> I3DNetwork:
    return I3DNetwork().eval()


def saved(path: Path, weights: dict[str, Tensor]) -> tuple[str, str]:
    torch.save(weights, path)
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def without_counters(network: nn.Module) -> dict[str, Tensor]:
    """Weights as in the converted file."""
    return {name: values for name, values in network.state_dict().items() if "num_batches" not in name}


def test_size_and_names(network: I3DNetwork) -> None:
    weights = without_counters(network)
    assert count_parameters(network) == 12_697_264 and len(weights) == 57 * 5 + 2
    assert weights["Conv3d_1a_7x7.conv3d.weight"].shape == (64, 3, 7, 7, 7)
    assert weights["Mixed_4f.b2b.bn.running_var"].shape == (128,)
    assert weights["logits.conv3d.bias"].shape == (400,)
    # The public file has 50,939,526 bytes; names and headers are all that may be added.
    assert 0 < 50_939_526 - sum(values.numel() * 4 for values in weights.values()) < 100_000


def test_logits_are_one_vector_per_video(network: I3DNetwork) -> None:
    with torch.no_grad():
        video = torch.rand(2, 3, 9, 224, 224) * 2 - 1
        logits = network(video)
        assert logits.shape == (2, 400)
        torch.testing.assert_close(network(video[1:]), logits[1:], atol=1e-5, rtol=1e-4)


def test_padding_keeps_every_input_in_the_middle() -> None:
    for length, kernel, stride in ((16, 7, 2), (17, 7, 2), (9, 3, 2), (5, 3, 1), (4, 2, 2), (5, 2, 2)):
        padded = same(torch.ones(1, 1, length, length, length), (kernel,) * 3, (stride,) * 3)
        missing = padded.shape[2] - length
        assert (padded.shape[2] - kernel) // stride + 1 == -(-length // stride) and 0 <= missing < kernel
        assert padded[0, 0, missing // 2 : missing // 2 + length, length // 2, length // 2].eq(1).all()


def test_pooling_and_units_shrink_by_their_stride() -> None:
    hidden = torch.rand(1, 3, 5, 7, 8)
    assert pool(hidden, (1, 3, 3), (1, 2, 2)).shape == (1, 3, 5, 4, 4)
    assert Unit(3, 4, 7, stride=2)(hidden).shape == (1, 4, 3, 4, 4)


def test_a_state_dict_gives_the_same_as_the_network(network: I3DNetwork, tmp_path: Path) -> None:
    path, digest = saved(tmp_path / "i3d.pt", without_counters(network))
    features = I3D(path, sha256=digest)
    video = torch.randint(256, (1, 3, 9, 224, 224), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(features(video), network(video.float() / 127.5 - 1).double())
    assert features.title == f"Fréchet distance, features I3D file {digest[:8]}" and digest in features.fingerprint()


class Scripted(nn.Module):
    """Has the call of ``i3d_torchscript.pt``; shows what it was given."""

    def forward(self, video: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        assert not rescale and not resize and return_features
        low, high = video.amin(dim=(1, 2, 3, 4)), video.amax(dim=(1, 2, 3, 4))
        size = torch.tensor([float(video.shape[3]), float(video.shape[4])]).expand(video.shape[0], 2)
        return torch.cat([torch.stack([low, high], dim=1), size, torch.zeros(video.shape[0], 396)], dim=1)


@pytest.mark.filterwarnings("ignore:`torch.jit.script")
def test_a_torchscript_file_gets_pixels_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "renamed.pt"
    torch.jit.script(Scripted()).save(str(path))
    monkeypatch.setitem(i3d.KNOWN, hashlib.sha256(path.read_bytes()).hexdigest(), "i3d_torchscript.pt")
    features = I3D(str(path))
    video = torch.randint(256, (2, 3, 9, 32, 48), dtype=torch.uint8)
    video[:, :, :, :2], video[:, :, :, 2:4] = 0, 255
    torch.testing.assert_close(features(video)[:, :4], torch.tensor([[-1.0, 1.0, 224.0, 224.0]] * 2).double(), rtol=1e-6, atol=1e-6)
    assert features.title == "FVD"


def test_eight_frames_are_too_few(network: I3DNetwork, tmp_path: Path) -> None:
    path, digest = saved(tmp_path / "i3d.pt", without_counters(network))
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        I3D(path, sha256=digest)(torch.zeros(1, 3, 8, 16, 16, dtype=torch.uint8))


def test_unknown_files_are_refused_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, digest = saved(tmp_path / "i3d_pretrained_400.pt", {"some": torch.zeros(3)})
    with pytest.raises(ValueError, match=f"is neither i3d_torchscript.pt nor i3d_pretrained_400.pt: its sha256 is {digest}"):
        I3D(path)
    with pytest.raises(ValueError, match="its sha256 is"):
        I3D(path, sha256="0" * 64)
    monkeypatch.setitem(i3d.OTHERS, digest, "rgb_imagenet.pt")
    with pytest.raises(ValueError, match="is rgb_imagenet.pt, not the network of FVD"):
        I3D(path, sha256=digest)


def test_a_trusted_file_of_another_layout_is_refused(network: I3DNetwork, tmp_path: Path) -> None:
    weights = without_counters(network)
    missing = {name: values for name, values in weights.items() if name != "Mixed_5c.b0.bn.bias"}
    for content in (missing, weights | {"logits.conv3d.bias": torch.zeros(600)}, weights | {"extra.weight": torch.zeros(1)}, [1]):
        path, digest = saved(tmp_path / "i3d.pt", content)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="is not I3D of 400 classes"):
            I3D(path, sha256=digest)


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    path, digest = saved(tmp_path / "i3d.pt", {"weights": Evil()})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="not a readable file of weights"):
        I3D(path, sha256=digest)
    assert not (tmp_path / "ran").exists()
