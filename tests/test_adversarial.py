"""Critics see what they should, both sides of the game get the losses they should, and LeCAM's averages are shared and kept."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from modules.tokenizer.losses.adversarial import AdversarialLoss, LeCAM, hinge
from modules.tokenizer.losses.discriminator import FrameDiscriminator, VideoDiscriminator

REAL, FAKE = [2.0, -1.0, 0.5], [-3.0, 0.0, 1.5, 1.5]


def small(**settings: float) -> AdversarialLoss:
    return AdversarialLoss(**{"channels": 8, **settings})


@pytest.mark.parametrize(("frames", "times"), [(9, 3), (5, 2), (2, 1), (1, 1)])
def test_logits_are_patches_of_frames_or_of_spans(frames: int, times: int) -> None:
    video = torch.randn(2, 3, frames, 48, 32)
    assert FrameDiscriminator(8)(video).shape == (2, 1, frames, 6, 4)
    assert VideoDiscriminator(8)(video).shape == (2, 1, times, 6, 4)


@pytest.mark.parametrize("make", [FrameDiscriminator, VideoDiscriminator])
def test_clips_and_clip_sizes_stand_for_themselves(make: Callable[..., nn.Module]) -> None:
    critic, video = make(8), torch.randn(3, 3, 5, 16, 16)
    torch.testing.assert_close(critic(video)[1:2], critic(video[1:2]))
    assert critic(video).std() > 0


def test_only_the_video_critic_sees_the_order_of_frames() -> None:
    video, order = torch.randn(1, 3, 8, 16, 16), torch.randperm(8)
    frame_critic, video_critic = FrameDiscriminator(8), VideoDiscriminator(8)
    torch.testing.assert_close(frame_critic(video[:, :, order]), frame_critic(video)[:, :, order])
    before, after = video_critic(video), video_critic(video[:, :, order])
    assert (before.mean() - after.mean()).abs() > 1e-3 * before.std()


@pytest.mark.parametrize(("layers", "smallest"), [(2, 4), (3, 8)])
def test_frames_that_no_layer_is_left_of_are_refused(layers: int, smallest: int) -> None:
    for critic in (FrameDiscriminator(8, layers), VideoDiscriminator(8, layers)):
        assert critic(torch.randn(1, 3, 2, smallest, smallest)).shape[-2:] == (1, 1)
        with pytest.raises(ValueError, match=f"at least {smallest} x {smallest} pixels, got 16 x {smallest - 1}"):
            critic(torch.zeros(1, 3, 2, 16, smallest - 1))


def test_layers_overlap_start_small_and_double_up_to_eight_times() -> None:
    kernels = [part.weight for part in FrameDiscriminator(16, 5).network if isinstance(part, nn.Conv2d)]
    assert [len(kernel) for kernel in kernels] == [16, 32, 64, 128, 128, 128, 1]
    assert [kernel.shape[-1] for kernel in kernels] == [4, 4, 4, 4, 4, 3, 3]
    assert kernels[3].std().item() == pytest.approx(0.02, rel=0.02)


def test_strength_waits_and_then_rises() -> None:
    adversary = small(weight=0.3, start_step=100, ramp_steps=50)
    assert [adversary.weight_at(step) for step in (0, 99, 100)] == [0.0, 0.0, 0.0]
    assert [adversary.weight_at(step) for step in (125, 150, 10**6)] == pytest.approx([0.15, 0.3, 0.3])
    assert [adversary.active(step) for step in (99, 100)] == [False, True]
    assert [small(weight=0.3, start_step=2).weight_at(step) for step in (1, 2)] == [0.0, 0.3]


def test_hinge_agrees_with_a_slow_sum() -> None:
    slow = sum(max(0, 1 - value) for value in REAL) / 3 + sum(max(0, 1 + value) for value in FAKE) / 4
    assert hinge(torch.tensor(REAL), torch.tensor(FAKE)).item() == pytest.approx(slow / 2)


def test_losses_are_means_over_both_critics() -> None:
    adversary, real, fake = small(lecam=0.5), torch.rand(3, 3, 5, 16, 16), torch.randn(2, 3, 5, 16, 16)
    logits = [(critic(real), critic(fake)) for critic in adversary.critics.values()]
    losses = adversary.discriminator_loss(real, fake)
    torch.testing.assert_close(losses["hinge"], sum(hinge(*pair) for pair in logits) / 2)
    torch.testing.assert_close(losses["lecam"], sum(LeCAM()(*pair) for pair in logits) / 2)
    torch.testing.assert_close(losses["loss"], losses["hinge"] + 0.5 * losses["lecam"])
    for name, pair in zip(("frame", "video"), logits, strict=True):
        torch.testing.assert_close([losses[f"real_{name}"], losses[f"fake_{name}"]], [values.mean() for values in pair])
    torch.testing.assert_close(adversary.generator_loss(fake), -sum(values.mean() for _, values in logits) / 2)


def test_each_side_moves_only_its_own() -> None:
    adversary, fake = small(), torch.randn(2, 3, 5, 16, 16, requires_grad=True)
    real = torch.rand(2, 3, 5, 16, 16, requires_grad=True)
    adversary.generator_loss(fake).backward()
    assert fake.grad is not None and (fake.grad.abs().sum(dim=(1, 3, 4)) > 0).all()
    assert all(parameter.grad is None for parameter in adversary.parameters())
    fake.grad = None
    adversary.discriminator_loss(real, fake)["loss"].backward()
    assert fake.grad is None and real.grad is None
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in adversary.parameters())


def test_losses_are_in_full_precision() -> None:
    adversary, real, fake = small(), torch.rand(1, 3, 2, 16, 16), torch.rand(1, 3, 2, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert adversary.critics["frame"](fake).dtype == torch.bfloat16
        losses = {**adversary.discriminator_loss(real, fake.bfloat16()), "generator": adversary.generator_loss(fake.bfloat16())}
    assert {value.dtype for value in losses.values()} == {torch.float32}


def test_critics_learn_to_tell_noise_from_smooth_clips() -> None:
    adversary = small()
    optimizer = torch.optim.Adam(adversary.parameters(), lr=2e-3, betas=(0.5, 0.9))

    def play() -> dict[str, Tensor]:
        smooth = F.interpolate(torch.randn(4, 3, 2, 4, 4), (5, 16, 16), mode="trilinear")
        return adversary.discriminator_loss(smooth, torch.randn(4, 3, 5, 16, 16))

    assert play()["hinge"] > 0.9
    for _ in range(40):
        optimizer.zero_grad()
        play()["loss"].backward()
        optimizer.step()
    losses = play()
    assert losses["loss"] < 0.3
    assert all(losses[f"real_{name}"] > 0.5 and losses[f"fake_{name}"] < -0.5 for name in ("frame", "video"))


def test_lecam_agrees_with_numbers_by_hand() -> None:
    lecam = LeCAM(decay=0.75)
    calls = [([1.0, 3.0], [-1.0]), ([0.0], [-3.0, 3.0]), ([-2.0, -2.0], [8.0])]
    # The averages of (real, fake) after each call: (2, -1), (1.5, -0.75), (0.625, 1.4375).
    expected = [(2.0**2 + 4.0**2) / 2 + 3.0**2, 0.75**2 + 4.5**2 / 2, 0.0]
    assert [lecam(*map(torch.tensor, call)).item() for call in calls] == pytest.approx(expected)
    torch.testing.assert_close(lecam.averages, torch.tensor([0.625, 1.4375]))


def test_lecam_pulls_both_sides_together() -> None:
    real, fake = torch.tensor([2.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True)
    LeCAM()(real, fake).backward()
    assert (real.grad, fake.grad) == (torch.tensor([6.0]), torch.tensor([-6.0]))


def test_a_resumed_run_keeps_the_averages() -> None:
    adversary, resumed = small(), small()
    clips = torch.rand(2, 3, 2, 16, 16), torch.randn(2, 3, 2, 16, 16)
    adversary.discriminator_loss(*clips)
    resumed.load_state_dict(adversary.state_dict())
    changed = clips[0] * 2, clips[1] * 3
    torch.testing.assert_close(resumed.discriminator_loss(*changed), adversary.discriminator_loss(*changed), rtol=0, atol=0)
    assert (adversary.discriminator_loss(*changed)["lecam"] - small().discriminator_loss(*changed)["lecam"]).abs() > 1e-4


@pytest.mark.slow
def test_lecam_averages_are_those_of_all_processes(tmp_path: Path) -> None:
    spawn(_take_part, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    torch.testing.assert_close(first, torch.tensor([0.5, -2.0]))
    assert torch.equal(first, second)


def _take_part(rank: int, folder: str) -> None:
    """One of two processes: its logits are (0, -1) or (1, -3)."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    lecam = LeCAM()
    lecam(torch.full((2, 1), float(rank)), torch.full((3,), -1.0 - 2.0 * rank))
    torch.save(lecam.averages, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -0.1}, "weight must not be negative, got -0.1"),
        ({"start_step": -1}, "start_step must not be negative, got -1"),
        ({"ramp_steps": -5}, "ramp_steps must not be negative, got -5"),
        ({"lecam": -1.0}, "lecam must not be negative, got -1.0"),
        ({"channels": 0}, "at least 1 channel and 1 layer, got channels 0 and layers 3"),
        ({"layers": 0}, "got channels 8 and layers 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**settings)


def test_a_decay_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="in \\[0, 1\\), got 1.0"):
        LeCAM(decay=1.0)


def test_logits_that_are_not_finite_do_not_stay_in_the_averages() -> None:
    lecam = LeCAM()
    assert lecam(torch.tensor([torch.nan]), torch.zeros(1)).isnan() and not lecam.started
    lecam(torch.ones(2), torch.zeros(2))
    before = lecam.averages.clone()
    lecam(torch.ones(2), torch.tensor([torch.inf, 0.0]))
    assert torch.equal(lecam.averages, before) and lecam.started
