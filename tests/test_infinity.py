"""The network is the reference's: tensors computed with the reference tokenizer come out the same, and its files load.

The tensors are not part of the project (they are beside a checkout, in ``../shared/golden``, or where ``VIDEOAR_GOLDEN`` points); without
them these tests are skipped. The laws about files make their own.
"""

import os
from pathlib import Path

import pytest
import torch
from conftest import count_parameters, shaken
from safetensors.torch import load_file

from modules.pixels import to_unit
from modules.tokenizer import VideoTokenizer

GOLDEN = Path(os.environ.get("VIDEOAR_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}")


def save_as_infinity(tokenizer: VideoTokenizer, path: Path, **changes: torch.Tensor | None) -> Path:
    """In the layout of the published files: 2D kernels, nested under "vae", beside foreign entries."""
    state = {name: value.squeeze(2) if value.ndim == 5 else value for name, value in tokenizer.state_dict().items()}
    state |= {"quantizer.lfq.mask": torch.ones(8), "quantize.lfq.mask": torch.ones(8), "perceptual_model.x": torch.ones(1)} | changes
    torch.save({"step": 1, "vae": {name: value for name, value in state.items() if value is not None}}, path)
    return path


def small() -> VideoTokenizer:
    return shaken(VideoTokenizer(bits=8, channels=24, multipliers=(1, 2, 1), blocks=1, temporal_factor=1)).eval()


def test_architecture_and_weights_come_from_the_file(tmp_path: Path) -> None:
    source = small()
    loaded = VideoTokenizer.from_infinity(save_as_infinity(source, tmp_path / "vae.pth"))
    assert loaded.shape == source.shape
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in source.state_dict().items())


def test_a_file_that_lacks_or_bends_a_tensor_is_refused(tmp_path: Path) -> None:
    name = "decoder.up.1.block.0.norm1.norm.weight"
    with pytest.raises(ValueError, match=f"{name} is missing"):
        VideoTokenizer.from_infinity(save_as_infinity(small(), tmp_path / "lacks.pth", **{name: None}))
    with pytest.raises(ValueError, match=rf"{name} is \(7,\), expected \(24,\)"):
        VideoTokenizer.from_infinity(save_as_infinity(small(), tmp_path / "bent.pth", **{name: torch.ones(7)}))
    torch.save({"vae": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="holds no Infinity tokenizer"):
        VideoTokenizer.from_infinity(tmp_path / "empty.pth")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        VideoTokenizer.from_infinity(tmp_path / "gone.pth")


def test_inflation_keeps_the_kernel_last_and_fills_the_earlier_slices_as_asked() -> None:
    image, name = small(), "encoder.mid.block_1.conv1.conv.weight"
    kernel = image.state_dict()[name][:, :, 0]
    zeros, drawn = (image.inflate(4, how).state_dict()[name] for how in ("zeros", "random"))
    assert torch.equal(zeros[:, :, -1], kernel) and torch.equal(drawn[:, :, -1], kernel)
    assert not zeros[:, :, :-1].any() and drawn[:, :, :-1].std() > 0
    with pytest.raises(ValueError, match="inflation goes from 1"):
        image.inflate(4).inflate(4)


@pytest.mark.parametrize(("bits", "factor", "parameters"), [(32, 1, 110_118_051), (48, 1, 110_265_523), (48, 4, 329_988_787)])
def test_the_full_network_has_the_published_number_of_parameters(bits: int, factor: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(VideoTokenizer(bits, temporal_factor=factor)) == parameters


@golden
@pytest.mark.parametrize("case", ["img256_dynamic7", "img128_six_scales"])
def test_image_tokenizer_equals_the_reference(case: str) -> None:
    expected = load_file(GOLDEN / "setA_d16_f16" / f"{case}.safetensors")
    tokenizer = VideoTokenizer.from_infinity(GOLDEN / "setA_d16_f16" / "vae.pth").eval()
    with torch.no_grad():
        result = tokenizer(to_unit(expected["image_u8"]).unsqueeze(2))
    torch.testing.assert_close(result.latent.squeeze(2), expected["h"], rtol=0, atol=1e-4)
    for scale, bits in enumerate(result.quantized.bits):
        assert torch.equal(bits, expected[f"bits_{scale}"].bool())
    torch.testing.assert_close(result.quantized.latent.squeeze(2), expected["z"], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.video.squeeze(2), expected["recon_unclamped"], rtol=0, atol=2e-4)
    losses = 0.25 * expected["train_commit_mse"] + 0.1 * (expected["train_per_sample_entropy"] - expected["train_codebook_entropy"]) / 100
    ours = 0.25 * result.quantized.commitment + 0.1 * result.quantized.entropy
    torch.testing.assert_close(ours, losses.mean(), rtol=1e-5, atol=0)


@golden
def test_video_tokenizer_equals_the_reference() -> None:
    folder = GOLDEN / "setD_d12_3dcausal"
    expected, weights = load_file(folder / "vid17x64.safetensors"), load_file(folder / "weights_bf16exact.safetensors")
    tokenizer = VideoTokenizer(bits=12, channels=24, multipliers=(1, 1, 1, 2, 1), blocks=1, temporal_factor=4).eval()
    own = tokenizer.state_dict()
    tokenizer.load_state_dict({name: weights[name].float().reshape(value.shape) for name, value in own.items()})
    with torch.no_grad():
        result = tokenizer(to_unit(expected["image_u8"]))
    torch.testing.assert_close(result.latent, expected["h"], rtol=0, atol=1e-4)
    for frame in range(5):
        for scale, bits in enumerate(result.quantized.bits):
            assert torch.equal(bits[:, frame : frame + 1], expected[f"f{frame}_bits_{scale}"].bool())
    torch.testing.assert_close(result.quantized.latent, expected["z"], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.video, expected["recon_unclamped"], rtol=0, atol=2e-4)
