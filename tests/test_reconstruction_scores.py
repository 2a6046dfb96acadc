"""What is measured of a tokenizer agrees with nested loops, whatever the batches."""

import math

import pytest
import torch

from modules.metrics import BitUse, FrameQuality, Motion, ReconstructionScores


def videos(clips: int = 3, frames: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    original = torch.randint(256, (clips, 3, frames, 8, 8), dtype=torch.uint8)
    return (original.int() + torch.randint(-20, 21, original.shape)).clamp(0, 255).to(torch.uint8), original


def test_places_in_a_group_have_their_own_psnr() -> None:
    made, original = videos()
    motion = Motion(temporal_factor=4)
    for clip in range(3):
        motion.update(made[clip : clip + 1], original[clip : clip + 1])
    result = motion.compute()
    groups = {"psnr_first": [0], **{f"psnr_in_group_{place}": [place, place + 4] for place in range(1, 5)}}
    for name, frames in groups.items():
        error = ((made[:, :, frames] / 255 - original[:, :, frames] / 255) ** 2).mean()
        assert result[name].item() == pytest.approx(-10 * math.log10(error), rel=1e-5)


def test_quality_is_that_of_all_pixels_or_of_frames() -> None:
    made, original = videos(frames=5)
    made[:, :, 2] = original[:, :, 2].clamp(max=254) + 1
    quality = FrameQuality()
    for clip in range(3):
        quality.update(made[clip : clip + 1], original[clip : clip + 1])
    result = quality.compute()
    squared = (made / 255 - original / 255).square()
    assert result["psnr"].item() == pytest.approx(-10 * math.log10(squared.mean()), rel=1e-5)
    frames = [-10 * math.log10(frame) for frame in squared.mean(dim=(1, 3, 4)).flatten().tolist()]
    assert result["psnr_of_frames"].item() == pytest.approx(sum(frames) / 15, rel=1e-5) and result["psnr_of_frames"] > result["psnr"]


def test_a_still_picture_has_the_error_of_no_change() -> None:
    _, original = videos()
    motion = Motion(4)
    motion.update(original[:, :, :1].expand_as(original), original)
    result = motion.compute()
    assert result["change_error"] == result["change_of_still"] > 0
    motion.reset()
    motion.update(original, original)
    assert motion.compute()["change_error"] == 0


def test_pictures_have_no_motion() -> None:
    motion = Motion(1)
    motion.update(*videos(frames=1))
    assert motion.compute().keys() == {"psnr_first"}


def test_bits_that_always_say_the_same_are_dead_and_say_nothing() -> None:
    use, seen = BitUse(scales=2, bits=3), []
    for _ in range(2):
        bits = [(torch.rand(4, 5, side, side, 3) < torch.tensor([0.5, 0.2, 0.0])).to(torch.uint8) for side in (1, 6)]
        use.update(bits, torch.tensor([0.5, 0.25]))
        seen.append(bits)
    result = use.compute()
    effective = 0.0
    for scale in range(2):
        share = torch.cat([bits[scale].flatten(0, -2) for bits in seen]).double().mean(0)
        entropy = [-sum(p * math.log2(p) for p in (one, 1 - one) if p > 0) for one in share.tolist()]
        assert result[f"scale{scale}/entropy"].item() == pytest.approx(sum(entropy) / 3)
        assert result[f"scale{scale}/balance"].item() == pytest.approx(share.mean().item())
        assert result[f"scale{scale}/worst_imbalance"].item() == pytest.approx(0.5) and result[f"scale{scale}/dead"] == 1
        assert result[f"scale{scale}/left"].item() == pytest.approx((0.5, 0.25)[scale])
        effective += sum(entropy) * 5 * (1, 36)[scale]
    assert result["dead"] == 2 and result["effective_per_clip"].item() == pytest.approx(effective, rel=1e-5)


def test_collecting_starts_anew() -> None:
    scores = ReconstructionScores(temporal_factor=4, scales=1, bits=2)
    original = torch.randint(256, (2, 3, 5, 16, 16), dtype=torch.uint8)
    bits = [torch.randint(2, (2, 2, 4, 4, 2), dtype=torch.uint8)]
    scores.update(torch.zeros_like(original), original, bits, torch.ones(1))
    bad = scores.collect()
    scores.update(original, original, bits, torch.ones(1))
    good = scores.collect()
    assert good["ssim"] == pytest.approx(1.0) and bad["ssim"] < 0.5 and good["change_error"] == 0 < bad["change_error"]
