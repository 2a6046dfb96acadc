"""Files in the layout of Infinity's load whole or not at all, in Python and on the command line."""

from pathlib import Path

import pytest
import torch
from conftest import count_parameters, perturbed
from toy_runs import compose, run

from modules.tokenizer import VideoTokenizer


def save_as_infinity(tokenizer: VideoTokenizer, path: Path, **changes: torch.Tensor | None) -> Path:
    """In the layout of the published files: 2D kernels, nested under "vae", beside foreign entries."""
    state = {name: value.squeeze(2) if value.ndim == 5 else value for name, value in tokenizer.state_dict().items()}
    state |= {"quantizer.lfq.mask": torch.ones(8), "quantize.lfq.mask": torch.ones(8), "perceptual_model.x": torch.ones(1)} | changes
    torch.save({"step": 1, "vae": {name: value for name, value in state.items() if value is not None}}, path)
    return path


def small() -> VideoTokenizer:
    return perturbed(VideoTokenizer(bits=8, channels=24, multipliers=(1, 2, 1), blocks=1, temporal_factor=1)).eval()


def test_architecture_and_weights_come_from_the_file(tmp_path: Path) -> None:
    source = small()
    loaded = VideoTokenizer.from_infinity(save_as_infinity(source, tmp_path / "vae.pth"))
    assert loaded.shape == source.shape
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in source.state_dict().items())


def test_a_file_that_lacks_or_bends_a_tensor_is_refused(tmp_path: Path) -> None:
    name = "decoder.up.1.block.0.norm1.norm.weight"
    with pytest.raises(ValueError, match=f"{name} is missing in the file"):
        VideoTokenizer.from_infinity(save_as_infinity(small(), tmp_path / "lacks.pth", **{name: None}))
    with pytest.raises(ValueError, match=rf"{name} is \(7,\) in the file and \(24,\) in the model"):
        VideoTokenizer.from_infinity(save_as_infinity(small(), tmp_path / "bent.pth", **{name: torch.ones(7)}))
    torch.save({"vae": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match="contains no Infinity tokenizer"):
        VideoTokenizer.from_infinity(tmp_path / "empty.pth")
    with pytest.raises(FileNotFoundError, match=r"gone\.pth"):
        VideoTokenizer.from_infinity(tmp_path / "gone.pth")


def test_attention_or_anything_else_of_another_network_is_refused(tmp_path: Path) -> None:
    extra = "encoder.mid.attn_1.q.conv.weight"
    with pytest.raises(ValueError, match=f"{extra} is not part of the published network"):
        VideoTokenizer.from_infinity(save_as_infinity(small(), tmp_path / "more.pth", **{extra: torch.ones(1)}))


def test_another_number_of_bits_renews_two_convolutions_and_says_so(tmp_path: Path) -> None:
    source = small()
    with pytest.warns(UserWarning, match="8 bits, not 12; newly initialised: encoder.conv_out.conv.weight, .*decoder.conv_in.conv.bias"):
        loaded = VideoTokenizer.from_infinity(save_as_infinity(source, tmp_path / "vae.pth"), bits=12)
    changed = {name for name, value in loaded.state_dict().items() if not torch.equal(value, source.state_dict().get(name, value[:0]))}
    assert changed == {
        f"{convolution}.conv.{kind}" for convolution in ("encoder.conv_out", "decoder.conv_in") for kind in ("weight", "bias")
    }
    assert loaded.bits == 12


@pytest.mark.parametrize("temporal_factor", [2, 4])
def test_a_video_tokenizer_loads_with_its_temporal_factor(temporal_factor: int, tmp_path: Path) -> None:
    source = small().inflate(temporal_factor, "random")
    loaded = VideoTokenizer.from_infinity(save_as_infinity(source, tmp_path / "vae.pth"), temporal_factor=temporal_factor)
    assert loaded.shape == source.shape
    with pytest.raises(ValueError, match="a video tokenizer; see inflate"):
        VideoTokenizer.from_infinity(tmp_path / "vae.pth", temporal_factor=1)


@pytest.mark.parametrize(
    ("settings", "factor", "latent"),
    [
        ({"bits": 14, "multipliers": (1, 2, 4, 4)}, 8, (1, 4, 6)),
        ({"bits": 24, "multipliers": (1, 2, 4, 4, 4)}, 16, (1, 2, 3)),
        ({"bits": 64, "multipliers": (1, 2, 4, 4, 4), "temporal_factor": 2}, 16, (3, 2, 3)),
        ({"bits": 16, "multipliers": (1, 1, 2, 4, 4), "temporal_factor": 8}, 16, (2, 2, 3)),
    ],
)
def test_every_published_shape_and_others_go_there_and_back(settings: dict, factor: int, latent: tuple, tmp_path: Path) -> None:
    source = VideoTokenizer(**{"channels": 24, "temporal_factor": 1, **settings}).eval()
    tau = source.shape.temporal_factor
    path = save_as_infinity(source, tmp_path / "vae.pth")
    loaded = VideoTokenizer.from_infinity(path, temporal_factor=tau).eval()
    frames, height, width = 1 + (latent[0] - 1) * tau, 32, 48
    video = torch.randn(1, 3, frames, height, width)
    with torch.no_grad():
        result = loaded(video)
    assert loaded.shape.spatial_factor == factor and tuple(result.latent.shape[2:]) == latent
    assert result.video.shape == video.shape


def test_inflation_keeps_the_kernel_last_and_fills_the_earlier_slices_as_asked() -> None:
    image, name = small(), "encoder.mid.block_1.conv1.conv.weight"
    kernel = image.state_dict()[name][:, :, 0]
    zeros, drawn = (image.inflate(4, how).state_dict()[name] for how in ("zeros", "random"))
    assert torch.equal(zeros[:, :, -1], kernel) and torch.equal(drawn[:, :, -1], kernel)
    assert not zeros[:, :, :-1].any() and drawn[:, :, :-1].std() > 0
    with pytest.raises(ValueError, match="inflation goes from 1"):
        image.inflate(4).inflate(4)
    with pytest.raises(ValueError, match="temporal_init must be one of zeros, random, got 'ones'"):
        image.inflate(4, "ones")


@pytest.mark.slow
def test_inflation_is_exact_at_full_size() -> None:
    image = perturbed(VideoTokenizer(temporal_factor=1), 0.01).eval()
    video = image.inflate(4).eval()
    clip = torch.rand(1, 3, 5, 16, 32) * 2 - 1
    with torch.no_grad():
        latent = image.encode(clip[:, :, ::4])
        torch.testing.assert_close(video.encode(clip), latent, rtol=1e-5, atol=1e-5)
        decoded = image.decode(latent)[:, :, [0, 1, 1, 1, 1]]
        torch.testing.assert_close(video.decode(latent), decoded, rtol=1e-5, atol=1e-5)


def test_the_command_line_starts_from_a_published_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A published picture tokenizer becomes a video tokenizer of other bits; the report names what is new, and nothing else is."""
    shape = {"bits": 6, "channels": 24, "multipliers": (1, 1, 1), "blocks": 1}
    source = save_as_infinity(perturbed(VideoTokenizer(**shape, temporal_factor=1)), tmp_path / "vae.pth")
    with caplog.at_level("INFO"):
        started = compose("tokenizer", tmp_path, "--init_from", source, "--temporal_init", "random").model.tokenizer.state_dict()
    assert "newly initialised, as the file has another number of bits: tokenizer.encoder.conv_out.conv.weight" in caplog.text
    reinitialised = ("encoder.conv_out.conv", "decoder.conv_in.conv")
    for name, value in torch.load(source, weights_only=True)["vae"].items():
        if name.startswith(("encoder", "decoder")) and not name.startswith(reinitialised):
            assert torch.equal(started[name][:, :, -1] if value.ndim == 4 and started[name].ndim == 5 else started[name], value), name
    deep = started["encoder.mid.block_1.conv1.conv.weight"]
    assert deep[:, :, :-1].std() > 0


def test_a_frozen_tokenizer_or_a_test_needs_all_of_the_weights(tmp_path: Path) -> None:
    shape = {"bits": 6, "channels": 24, "multipliers": (1, 1, 1), "blocks": 1}
    source = save_as_infinity(perturbed(VideoTokenizer(**shape, temporal_factor=1)), tmp_path / "vae.pth")
    with pytest.raises(ValueError, match="another architecture: tokenizer.encoder.conv_out.conv.weight is"):
        compose("videoar", tmp_path, "--init_from", source)
    with pytest.raises(ValueError, match="another architecture: tokenizer.encoder.conv_out.conv.weight is"):
        run("test", "tokenizer", tmp_path, "--init_from", source)


@pytest.mark.parametrize(("bits", "factor", "parameters"), [(32, 1, 110_118_051), (48, 1, 110_265_523), (48, 4, 329_988_787)])
def test_the_full_network_has_the_published_number_of_parameters(bits: int, factor: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count_parameters(VideoTokenizer(bits, temporal_factor=factor)) == parameters
