"""The tokenizer is the reference's: tensors that the reference computed come out the same, in both directions of the chain rule.

The tensors are not part of the project: they lie beside a checkout, in ``../shared/golden``, or where ``VIDEOAR_GOLDEN`` points; without
them these tests are skipped. What is known about each is in the README there.
"""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modules.autoregression import BitCorruption, TeacherForcingBatch, teacher_forcing
from modules.geometry import Pyramid
from modules.pixels import to_unit
from modules.tokenizer import VideoTokenizer
from modules.tokenizer.bsq import straight_through
from modules.tokenizer.pyramid import coarse_to_fine, downsample

GOLDEN = Path(os.environ.get("VIDEOAR_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
IMAGES, VIDEO = GOLDEN / "setA_d16_f16", GOLDEN / "setD_d12_3dcausal"

pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"no golden tensors at {GOLDEN}")


@pytest.fixture(params=["img256_dynamic7", "img128_six_scales"])
def expected(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return load_file(IMAGES / f"{request.param}.safetensors")


@pytest.fixture
def image_tokenizer() -> VideoTokenizer:
    return VideoTokenizer.from_infinity(IMAGES / "vae.pth").eval()


def latent_of(expected: dict[str, Tensor]) -> Tensor:
    return expected["h"].unsqueeze(2)


def pyramid_of(expected: dict[str, Tensor]) -> Pyramid:
    return Pyramid.of(*expected["h"].shape[-2:])


def test_latents_bits_and_pixels_of_pictures(image_tokenizer: VideoTokenizer, expected: dict[str, Tensor]) -> None:
    with torch.no_grad():
        result = image_tokenizer(to_unit(expected["image_u8"]).unsqueeze(2))
    torch.testing.assert_close(result.latent.squeeze(2), expected["h"], rtol=0, atol=1e-4)
    for scale, bits in enumerate(result.quantized.bits):
        assert torch.equal(bits, expected[f"bits_{scale}"])
    torch.testing.assert_close(result.quantized.latent.squeeze(2), expected["z"], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.video.squeeze(2), expected["recon_unclamped"], rtol=0, atol=2e-4)


def test_bits_alone_give_back_latent_and_pixels(image_tokenizer: VideoTokenizer, expected: dict[str, Tensor]) -> None:
    bits = [expected[f"bits_{scale}"] for scale in range(pyramid_of(expected).scales)]
    latent = image_tokenizer.dequantize(bits)
    torch.testing.assert_close(latent.squeeze(2), expected["z"], rtol=0, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(image_tokenizer.decode(latent).squeeze(2), expected["recon_unclamped"], rtol=0, atol=2e-4)


def test_losses_of_every_scale(image_tokenizer: VideoTokenizer, expected: dict[str, Tensor]) -> None:
    quantized = image_tokenizer.quantize(latent_of(expected))
    torch.testing.assert_close(quantized.commitment, expected["train_commit_mse"], rtol=1e-5, atol=0)
    penalty = (expected["train_per_sample_entropy"] - expected["train_codebook_entropy"]) / 100
    torch.testing.assert_close(quantized.entropy, penalty, rtol=1e-5, atol=0)
    auxiliary = 0.25 * quantized.commitment + 0.1 * quantized.entropy
    torch.testing.assert_close(auxiliary, expected["train_aux_loss_per_scale"], rtol=1e-5, atol=0)


def test_gradient_of_the_losses(image_tokenizer: VideoTokenizer, expected: dict[str, Tensor]) -> None:
    latent = latent_of(expected).requires_grad_()
    quantized = image_tokenizer.quantize(latent)
    (4 * (0.25 * quantized.commitment + 0.1 * quantized.entropy).mean()).backward()
    close_to(latent.grad, expected["train_grad_h_of_4_mean_aux"])


def test_gradient_through_the_bits(image_tokenizer: VideoTokenizer, expected: dict[str, Tensor]) -> None:
    latent = latent_of(expected).requires_grad_()
    (image_tokenizer.quantize(latent).latent.squeeze(2) * expected["ste_weight"]).sum().backward()
    close_to(latent.grad, expected["ste_grad_h_keepgrad"])


def test_gradient_through_the_bits_but_not_through_the_residuals(expected: dict[str, Tensor]) -> None:
    latent, pyramid = expected["h"].clone().requires_grad_(), pyramid_of(expected)

    def choose(scale: int, context: Tensor, partial: Tensor) -> Tensor:
        return straight_through(downsample(latent - partial.detach(), pyramid.sizes[scale]))[1]

    (coarse_to_fine(pyramid, choose, torch.zeros_like(latent)) * expected["ste_weight"]).sum().backward()
    close_to(latent.grad, expected["ste_grad_h_detach"])


def test_averaged_contexts(expected: dict[str, Tensor]) -> None:
    batch_tokens, pyramid = teacher_forcing(latent_of(expected), BitCorruption(), pyramid_of(expected)), pyramid_of(expected)
    for context, scale in zip(batch_tokens.inputs.split(pyramid.areas, dim=1)[1:], range(1, pyramid.scales), strict=True):
        reference = expected[f"var_input_area_{scale}"].flatten(2).transpose(1, 2)
        torch.testing.assert_close(context, reference, rtol=0, atol=1e-5)


def test_point_sampled_contexts_and_their_targets(expected: dict[str, Tensor]) -> None:
    agrees(teacher_forcing(latent_of(expected), BitCorruption(), pyramid_of(expected), "bilinear"), expected, "bsc0")


class RecordedFlips(BitCorruption):
    """Flips the bits that the reference flipped, scale after scale."""

    def __init__(self, masks: list[Tensor]) -> None:
        super().__init__()
        self.masks = iter(masks)

    def flip(self, bits: Tensor, ratio: Tensor) -> Tensor:
        return bits ^ next(self.masks).squeeze(1).movedim(-1, 1).bool()


def test_flipped_contexts_and_self_corrected_targets(expected: dict[str, Tensor]) -> None:
    pyramid = pyramid_of(expected)
    flips = RecordedFlips([expected[f"bscF_flipmask_{scale}"] for scale in range(pyramid.scales)])
    agrees(teacher_forcing(latent_of(expected), flips, pyramid, "bilinear"), expected, "bscF")


def test_latents_bits_and_pixels_of_video() -> None:
    expected = load_file(VIDEO / "vid17x64.safetensors")
    tokenizer = VideoTokenizer.from_infinity(VIDEO / "weights_bf16exact.safetensors").eval()
    video = to_unit(expected["image_u8"])
    with torch.no_grad():
        result, first = tokenizer(video), tokenizer.encode(video[:, :, :1])
        decoded = tokenizer.decode(first)  # the reference decoded the picture without its bits
    torch.testing.assert_close(result.latent, expected["h"], rtol=0, atol=1e-4)
    for scale, bits in enumerate(result.quantized.bits):
        reference = torch.cat([expected[f"f{frame}_bits_{scale}"] for frame in range(5)], dim=1)
        assert torch.equal(bits, reference)
    torch.testing.assert_close(result.quantized.latent, expected["z"], rtol=0, atol=1e-5)
    torch.testing.assert_close(result.video, expected["recon_unclamped"], rtol=0, atol=2e-4)
    torch.testing.assert_close(first, expected["image_h"], rtol=0, atol=1e-4)
    torch.testing.assert_close(decoded, expected["image_recon_unclamped"], rtol=0, atol=2e-4)


def close_to(gradient: Tensor | None, expected: Tensor) -> None:
    assert gradient is not None
    torch.testing.assert_close(gradient.view_as(expected), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def agrees(batch_tokens: TeacherForcingBatch, expected: dict[str, Tensor], name: str) -> None:
    assert torch.equal(batch_tokens.targets, expected[f"{name}_labels_BLd"].bool())
    torch.testing.assert_close(batch_tokens.inputs[:, 1:], expected[f"{name}_x_BLC_wo_prefix"], rtol=0, atol=1e-5)
