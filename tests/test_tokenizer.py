"""Nothing looks into the future, an inflated image tokenizer equals the image tokenizer, bits and codes agree."""

import pytest
import torch

from modules.geometry import Pyramid
from modules.tokenizer import VideoTokenizer, bsq
from modules.tokenizer.pyramid import coarse_to_fine, downsample, upsample


def test_later_frames_change_no_earlier_latent(tokenizer: VideoTokenizer) -> None:
    video = torch.randn(1, 3, 13, 16, 16)
    changed = video.clone()
    changed[:, :, 5:] += 1.0  # latents 0 and 1 hold frames 0 to 4
    before, after = tokenizer.encode(video), tokenizer.encode(changed)
    torch.testing.assert_close(before[:, :, :2], after[:, :, :2], rtol=0, atol=0)
    assert (before[:, :, 2:] - after[:, :, 2:]).abs().amax() > 1e-3


def test_later_latents_change_no_earlier_frame(tokenizer: VideoTokenizer) -> None:
    latent = torch.randn(1, 8, 4, 4, 4)
    changed = latent.clone()
    changed[:, :, 2:] += 1.0
    before, after = tokenizer.decode(latent), tokenizer.decode(changed)
    assert before.shape[2] == 13
    torch.testing.assert_close(before[:, :, :5], after[:, :, :5], rtol=0, atol=0)
    assert (before[:, :, 5] - after[:, :, 5]).abs().amax() > 1e-3


def test_every_frame_of_a_group_reaches_its_latent(tokenizer: VideoTokenizer) -> None:
    video = torch.randn(1, 3, 5, 16, 16)
    for frame in range(1, 5):
        changed = video.clone()
        changed[:, :, frame] += 1.0
        assert (tokenizer.encode(video) - tokenizer.encode(changed))[:, :, 1].abs().amax() > 1e-4


@pytest.mark.parametrize("temporal_factor", [2, 4])
def test_zero_inflation_equals_the_image_tokenizer(temporal_factor: int) -> None:
    image = VideoTokenizer(bits=8, channels=24, multipliers=(1, 2, 1), blocks=1, temporal_factor=1)
    video = image.inflate(temporal_factor)
    clip = torch.randn(2, 3, 1 + 2 * temporal_factor, 16, 16)
    torch.testing.assert_close(video.encode(clip), image.encode(clip[:, :, ::temporal_factor]), rtol=0, atol=1e-5)
    latent = torch.randn(2, 8, 3, 4, 4)
    times = torch.arange(1 + 2 * temporal_factor).add(temporal_factor - 1) // temporal_factor
    torch.testing.assert_close(video.decode(latent), image.decode(latent)[:, :, times], rtol=0, atol=1e-5)


def test_image_tokenizer_treats_frames_as_pictures() -> None:
    image = VideoTokenizer(bits=8, channels=24, multipliers=(1, 1), blocks=1, temporal_factor=1)
    clip = torch.randn(1, 3, 3, 8, 8)
    alone = torch.cat([image.encode(clip[:, :, frame : frame + 1]) for frame in range(3)], dim=2)
    torch.testing.assert_close(image.encode(clip), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "message"),
    [((16, 16, 16), "1 \\+ 4 \\* n frames, got 16"), ((17, 18, 16), "height must be a multiple of 4, got 18"), ((17, 16, 15), "width")],
)
def test_clips_that_do_not_divide_are_refused(tokenizer: VideoTokenizer, size: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(torch.zeros(1, 3, *size))


def test_bits_give_back_the_quantised_latent(tokenizer: VideoTokenizer) -> None:
    quantized = tokenizer.quantize(torch.randn(2, 8, 3, 4, 4))
    torch.testing.assert_close(tokenizer.dequantize(quantized.bits), quantized.latent)
    assert [tuple(bits.shape) for bits in quantized.bits] == [(2, 3, side, side, 8) for side in (1, 2, 3, 4)]


def test_scales_can_be_given(tokenizer: VideoTokenizer) -> None:
    latent = torch.randn(1, 8, 2, 3, 5)
    quantized = tokenizer.quantize(latent, scales=[1, (2, 3), (1, 3, 5)])
    assert [tuple(bits.shape[2:4]) for bits in quantized.bits] == [(1, 1), (2, 3), (3, 5)]
    assert all(bits.dtype == torch.uint8 and bits.max() <= 1 for bits in quantized.bits)
    torch.testing.assert_close(tokenizer.dequantize(quantized.bits), quantized.latent)
    with pytest.raises(ValueError, match=r"last scale must be the latent's \(3, 5\), got \(2, 2\)"):
        tokenizer.quantize(latent, scales=[1, 2])
    with pytest.raises(ValueError, match="scales must grow"):
        tokenizer.quantize(latent, scales=[(2, 2), (1, 1), (3, 5)])


def test_what_is_left_after_each_scale(tokenizer: VideoTokenizer) -> None:
    latent = torch.randn(1, 8, 1, 4, 4)
    quantized, total = tokenizer.quantize(latent), torch.zeros(1, 8, 4, 4)
    for bits, left in zip(quantized.bits, quantized.residual_energy, strict=True):
        total = total + upsample(bsq.to_codes(bits[:, 0].permute(0, 3, 1, 2)), (4, 4))
        torch.testing.assert_close(left, (latent[:, :, 0] - total).square().sum() / latent.square().sum())


def test_a_dropped_scale_adds_nothing_and_the_last_one_stays(tokenizer: VideoTokenizer) -> None:
    latent = torch.randn(1, 8, 2, 4, 4)
    only_last = tokenizer.quantize(latent, drop=1.0)
    torch.testing.assert_close(only_last.latent, tokenizer.quantize(latent, scales=[4]).latent)
    assert only_last.commitment.shape == only_last.entropy.shape == (1,)
    kept = torch.tensor([len(tokenizer.quantize(latent, drop=0.5).commitment) for _ in range(300)]).float()
    assert abs(kept.mean() - 2.5) < 0.2 and kept.min() == 1 and kept.max() == 4


def test_frames_are_quantised_by_themselves(tokenizer: VideoTokenizer) -> None:
    latent = torch.randn(1, 8, 3, 4, 4)
    together, alone = tokenizer.quantize(latent), tokenizer.quantize(latent[:, :, 1:2])
    torch.testing.assert_close(together.latent[:, :, 1:2], alone.latent)


def test_codes_have_unit_length_and_the_gradient_of_the_sphere() -> None:
    values = torch.randn(2, 8, 3, 3, requires_grad=True)
    sphere, codes = bsq.straight_through(values)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(2, 3, 3))
    assert torch.equal(bsq.to_bits(codes), bsq.to_bits(values))
    weight = torch.randn_like(codes)
    (through,) = torch.autograd.grad((codes * weight).sum(), values, retain_graph=True)
    (direct,) = torch.autograd.grad((sphere * weight).sum(), values)
    torch.testing.assert_close(through, direct)


def test_zero_is_bit_zero() -> None:
    assert not bsq.to_bits(torch.zeros(1)).item()


def test_entropy_penalty_agrees_with_a_slow_sum() -> None:
    sphere = torch.nn.functional.normalize(torch.randn(3, 4, 2, 2), dim=1) * 0.02
    chance = torch.sigmoid(400 * sphere / 2)
    flat = chance.permute(0, 2, 3, 1).reshape(-1, 4)

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Bernoulli(probs=p).entropy()

    expected = (entropy(flat).sum(1).mean() - entropy(flat.mean(0)).sum()) / 100
    torch.testing.assert_close(bsq.entropy_penalty(sphere), expected, rtol=1e-4, atol=1e-6)


def test_walk_sums_the_upsampled_codes_and_shows_each_scale_the_sum_so_far() -> None:
    pyramid = Pyramid.of(4, 4)
    codes = [torch.randn(1, 8, *size) for size in pyramid.sizes]
    seen = []

    def choose(scale: int, context: torch.Tensor, partial: torch.Tensor) -> torch.Tensor:
        seen.append(context)
        torch.testing.assert_close(context, downsample(partial, pyramid.sizes[scale]))
        return codes[scale]

    total = coarse_to_fine(pyramid, choose, torch.zeros(1, 8, 4, 4))
    torch.testing.assert_close(total, sum(upsample(code, (4, 4)) for code in codes))
    torch.testing.assert_close(seen[2], downsample(upsample(codes[0], (4, 4)) + upsample(codes[1], (4, 4)), (3, 3)))


def test_latents_are_made_in_true_float32_and_flags_are_restored(tokenizer: VideoTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags: list[tuple[bool, bool, bool]] = []
    encode = tokenizer.encode

    def watched(video: torch.Tensor) -> torch.Tensor:
        flags.append((cudnn.allow_tf32, matmul.allow_tf32, torch.is_autocast_enabled("cpu")))
        if len(flags) > 1:
            raise RuntimeError("stop")
        return encode(video)

    monkeypatch.setattr(tokenizer, "encode", watched)
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = True
    try:
        with torch.autocast("cpu", torch.bfloat16):
            tokenizer.encode_for_tokens(torch.zeros(1, 3, 1, 16, 16))
            with pytest.raises(RuntimeError, match="stop"):
                tokenizer.encode_for_tokens(torch.zeros(1, 3, 1, 16, 16))
        assert flags == [(False, False, False)] * 2 and cudnn.allow_tf32 and matmul.allow_tf32
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before
