"""Rollout training shows the model what it would sample, and asks it for the way back."""

import pytest
import torch
from conftest import make_transformer, perturbed

from modules.autoregression import BitCorruption, Rollout, bit_loss, teacher_forcing
from modules.autoregression.rollout import UNGUIDED, SampledContext
from modules.autoregression.sampler import Sampler
from modules.geometry import Layout, Pyramid
from modules.transformer import VideoARTransformer

LAYOUT = Layout(Pyramid.of(4, 4), 4)
GREEDY = Sampler(UNGUIDED, temperature=0.0)


def rolled(transformer: VideoARTransformer, frames: range) -> tuple[torch.Tensor, SampledContext]:
    ids = transformer.condition.of_batch(torch.tensor([0, 4]), [])
    return torch.randn(2, 8, 4, 4, 4), SampledContext(GREEDY, transformer, ids, frames)


@pytest.mark.parametrize("history", ["all_scales", "last_scale"])
def test_the_model_is_shown_exactly_what_it_would_say(history: str) -> None:
    """Greedy samples are the signs of the logits, so the teacher's pass over them must give these bits again in the sampled frames."""
    transformer = perturbed(make_transformer(history=history)).eval()
    latent, own = rolled(transformer, range(1, 3))
    shown = {}

    class Watched:
        def prepare(self, latent, pyramid):
            show = own.prepare(latent, pyramid)
            return lambda scale, bits: shown.setdefault(scale, show(scale, bits))

    batch_tokens = teacher_forcing(latent, Watched(), LAYOUT.pyramid)
    logits = transformer(batch_tokens.inputs, LAYOUT, own.ids, complete=batch_tokens.complete)
    for scale in range(LAYOUT.pyramid.scales):
        bits = shown[scale].unflatten(0, (2, 4))
        for frame in own.frames:
            expected = (logits[:, LAYOUT.block(frame, scale)] > 0).transpose(1, 2)
            assert torch.equal(bits[:, frame].flatten(2), expected)


def test_frames_that_are_not_sampled_stay_true_and_targets_lead_back() -> None:
    latent, own = rolled(perturbed(make_transformer()), range(1, 3))
    clean, batch_tokens = teacher_forcing(latent, BitCorruption(), LAYOUT.pyramid), teacher_forcing(latent, own, LAYOUT.pyramid)
    torch.testing.assert_close(batch_tokens.complete[:, [0, 3]], clean.complete[:, [0, 3]])
    assert not torch.allclose(batch_tokens.complete[:, 1], clean.complete[:, 1])
    second = LAYOUT.block(1, 1)
    context = batch_tokens.inputs[:, second].transpose(1, 2).unflatten(2, (2, 2))
    residual = torch.nn.functional.adaptive_avg_pool2d(latent[:, :, 1], 2) - context
    assert torch.equal(batch_tokens.targets[:, second], (residual > 0).flatten(2).transpose(1, 2))
    last = slice(LAYOUT.block(3, 0).start, LAYOUT.tokens)
    assert torch.equal(batch_tokens.targets[:, last], clean.targets[:, last])


def test_the_samples_carry_no_gradient_and_the_lesson_does() -> None:
    transformer = perturbed(make_transformer())
    latent, own = rolled(transformer, range(2, 4))
    batch_tokens = teacher_forcing(latent, own, LAYOUT.pyramid)
    assert not batch_tokens.inputs.requires_grad
    bit_loss(transformer(batch_tokens.inputs, LAYOUT, own.ids), batch_tokens.targets).backward()
    assert transformer.project.weight.grad is not None


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.3, 1.0])
def test_the_stated_fraction_of_steps_is_rolled_out(fraction: float) -> None:
    assert sum(Rollout(fraction).due(step) for step in range(100)) == round(100 * fraction)


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 2), (2, 2), (2, 5), (9, 5)])
def test_a_rollout_starts_behind_a_true_frame_and_ends_in_the_clip(frames: int, latent_frames: int) -> None:
    layout, transformer = Layout(Pyramid.of(4, 4), latent_frames), make_transformer()
    ids = transformer.condition.of_batch(torch.tensor([0]), [])
    spans = {Rollout(1.0, frames).context_source(transformer, ids, layout).frames for _ in range(50)}
    assert all(1 <= span.start < span.stop <= latent_frames and len(span) <= frames for span in spans)
    if (frames, latent_frames) == (2, 5):
        assert spans == {range(1, 3), range(2, 4)}  # a true frame is left to find the way back to


def test_impossible_rollouts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be within 0 and 1, got -0\.1"):
        Rollout(-0.1)
    with pytest.raises(ValueError, match="at least 1 latent frame, got 0"):
        Rollout(frames=0)
