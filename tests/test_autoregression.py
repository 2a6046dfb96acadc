"""Teacher and sampler see the same inputs, corruption corrects itself, a clip depends on its own seed only, a learned clip comes back."""

import pytest
import torch
from conftest import make_transformer, perturbed

from modules.autoregression import BitCorruption, Generation, Guidance, ReEncoding, Sampler, bit_loss, teacher_forcing
from modules.autoregression.teacher_forcing import opening_contexts
from modules.geometry import Clip, Layout, Pyramid
from modules.tokenizer import VideoTokenizer
from modules.tokenizer.pyramid import ResizeMode
from modules.transformer import VideoARTransformer
from modules.transformer.decoding.state import Decoding

LAYOUT = Layout(Pyramid.of(4, 4), 3)
NO_GUIDANCE = Guidance(1.0, 1.0, 1.0, 1.0)


class Flips(BitCorruption):
    """Flips the same bits whoever asks, so that teacher and sampler can be compared."""

    def flip(self, bits: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
        return bits ^ (torch.arange(bits[0].numel()).view(bits[0].shape) % 3 == 0)


def latents(frames: int = 3) -> torch.Tensor:
    return torch.randn(2, 8, frames, 4, 4)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("resize", ["area", "bilinear"])
@pytest.mark.parametrize("corruption", [BitCorruption(), Flips()])
def test_sampler_feeds_what_the_teacher_taught(corruption: BitCorruption, resize: ResizeMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """An oracle in the transformer's place answers with the taught bits, flipped: every input must be the teacher's, bit for bit."""
    batch_tokens, transformer = teacher_forcing(latents(), corruption, LAYOUT.pyramid, resize), make_transformer(resize=resize)
    seen, remembered = [], []

    def oracle(inputs: torch.Tensor, scale: int, decoding: Decoding) -> torch.Tensor:
        seen.append(inputs)
        bits = batch_tokens.targets[:, LAYOUT.block(decoding.frame, scale)].transpose(1, 2).unflatten(2, LAYOUT.pyramid.sizes[scale])
        flipped = corruption.flip(bits, torch.zeros(2)).flatten(2).transpose(1, 2)
        return torch.where(flipped, 50.0, -50.0)

    monkeypatch.setattr(transformer, "step", oracle)

    def remember(complete: torch.Tensor, decoding: Decoding) -> None:
        remembered.append((decoding.frame, complete))
        decoding.next_frame()

    monkeypatch.setattr(transformer, "commit_frame", remember)
    ids = transformer.condition.of_batch(torch.tensor([0, 1]), [])
    list(Sampler(NO_GUIDANCE).frames(transformer, ids, LAYOUT, generators(0, 1)))
    torch.testing.assert_close(torch.cat(seen, dim=1), batch_tokens.inputs, rtol=0, atol=0)
    assert [frame for frame, _ in remembered] == [0, 1]
    told = torch.stack([complete for _, complete in remembered], dim=1)
    torch.testing.assert_close(told, batch_tokens.complete[:, :-1].flatten(3).transpose(2, 3), rtol=0, atol=0)


def test_without_corruption_the_targets_are_the_tokenizers_bits(tokenizer: VideoTokenizer) -> None:
    latent = latents()
    quantized = tokenizer.quantize(latent)
    expected = torch.cat([bits.flatten(2, 3) for bits in quantized.bits], dim=2).flatten(1, 2)
    assert torch.equal(teacher_forcing(latent, BitCorruption(), LAYOUT.pyramid).targets, expected)


def test_targets_repair_the_flips() -> None:
    """A frame's first targets do not depend on flips; later ones do, and are the bits of what the flipped sum leaves over."""
    latent = latents()
    clean, flipped = teacher_forcing(latent, BitCorruption(), LAYOUT.pyramid), teacher_forcing(latent, Flips(), LAYOUT.pyramid)
    for frame in range(3):
        first, second = LAYOUT.block(frame, 0), LAYOUT.block(frame, 1)
        assert torch.equal(clean.targets[:, first], flipped.targets[:, first])
        assert not torch.equal(clean.targets[:, second], flipped.targets[:, second])
        context = flipped.inputs[:, second].transpose(1, 2).unflatten(2, (2, 2))
        residual = torch.nn.functional.adaptive_avg_pool2d(latent[:, :, frame], 2) - context
        assert torch.equal(flipped.targets[:, second], (residual > 0).flatten(2).transpose(1, 2))


def test_errors_of_a_frame_reach_the_next_ones_first_input() -> None:
    latent = latents()
    clean, flipped = teacher_forcing(latent, BitCorruption(), LAYOUT.pyramid), teacher_forcing(latent, Flips(), LAYOUT.pyramid)
    start = LAYOUT.block(1, 0)
    assert not torch.equal(clean.inputs[:, start], flipped.inputs[:, start])
    assert torch.equal(clean.inputs[:, 0], torch.zeros(2, 8))


def test_opening_contexts_show_the_frame_before() -> None:
    complete = torch.randn(2, 3, 8, 4, 4)
    opened = opening_contexts(complete, (1, 1), "area").view(2, 3, 8)
    torch.testing.assert_close(opened[:, 1:], complete[:, :-1].mean(dim=(3, 4)))
    assert not opened[:, 0].any()


def test_ratios_rise_with_the_frame_and_keep_their_range() -> None:
    ratios = BitCorruption(0.02, 0.2, 0.03).draw_ratios(4000, 4, 3, torch.device("cpu"))
    for frame in range(4):
        lower, upper = 0.02 + 0.03 * frame, 0.2 + 0.03 * frame
        assert lower <= ratios[:, frame].min() and ratios[:, frame].max() <= upper
        middle, spread = (lower + upper) / 2, (upper - lower) / 12**0.5
        assert abs(ratios[:, frame].mean() - middle) < 3 * spread / (4000 * 3) ** 0.5
    assert ratios[0].unique().numel() == 12 and not torch.equal(ratios[0], ratios[1])


def test_ratios_never_exceed_one_half() -> None:
    assert BitCorruption(0.4, 0.5, 0.1, inherit=True).draw_ratios(50, 8, 3, torch.device("cpu")).max() <= 0.5


def test_a_frame_inherits_the_error_the_one_before_ended_with() -> None:
    corruption = BitCorruption(0.0, 0.2, 0.01, inherit=True)
    ratios = corruption.draw_ratios(2000, 4, 3, torch.device("cpu"))
    ended, upper = ratios[:, :-1, -1], 0.2 + 0.01 * torch.arange(1, 4)
    assert (ratios[:, 1:, 0] >= ended).all() and (ratios[:, 1:, 0] <= upper + 1e-6).all()
    free = BitCorruption(0.0, 0.2, 0.01).draw_ratios(2000, 4, 3, torch.device("cpu"))
    assert (free[:, 1:, 0] < free[:, :-1, -1]).any()


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5])
def test_bits_flip_at_the_given_rate(ratio: float) -> None:
    bits = torch.rand(4, 8, 50, 50) > 0.5
    rate = (BitCorruption.flip(bits, torch.full((4,), ratio)) != bits).float().mean().item()
    assert abs(rate - ratio) <= 3 * (ratio * (1 - ratio) / bits.numel()) ** 0.5


@pytest.mark.parametrize("settings", [(-0.1, 0.2, 0), (0.3, 0.2, 0), (0, 0.6, 0), (0, 0.2, -1)])
def test_impossible_ratios_are_refused(settings: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="flip ratios need"):
        BitCorruption(*settings)


def test_loss_is_ln_2_for_ignorance_and_equals_a_slow_sum() -> None:
    targets, logits = torch.rand(2, 5, 3) > 0.5, torch.randn(2, 5, 3)
    assert bit_loss(torch.zeros(2, 5, 3), targets).item() == pytest.approx(0.6931, abs=1e-4)
    chance = torch.sigmoid(logits)
    slow = -torch.where(targets, chance, 1 - chance).log().mean()
    torch.testing.assert_close(bit_loss(logits, targets), slow)


def sample(transformer: VideoARTransformer, sampler: Sampler, classes: list[int], seeds: list[int], **given: object) -> torch.Tensor:
    ids = transformer.condition.of_batch(torch.tensor(classes), [])
    return torch.stack([frame.complete for frame in sampler.frames(transformer, ids, LAYOUT, generators(*seeds), **given)], dim=2)


def test_a_clip_depends_on_its_own_seed_only(transformer: VideoARTransformer) -> None:
    sampler = Sampler(Guidance(1.0, 2.0, 3.0, 3.0))
    together = sample(transformer, sampler, [0, 4, 2], [5, 6, 7])
    torch.testing.assert_close(sample(transformer, sampler, [4], [6]), together[1:2], rtol=0, atol=1e-6)
    assert not torch.equal(sample(transformer, sampler, [4], [8]), together[1:2])


def test_guidance_of_one_is_no_guidance_and_more_changes_something(transformer: VideoARTransformer) -> None:
    plain = sample(transformer, Sampler(NO_GUIDANCE), [0, 4], [1, 2])
    nearly = sample(transformer, Sampler(Guidance(1.0, 1.0, 1.0, 1.0 + 1e-9)), [0, 4], [1, 2])
    torch.testing.assert_close(plain, nearly)
    assert not torch.equal(plain, sample(transformer, Sampler(Guidance(4.0, 4.0, 4.0, 4.0)), [0, 4], [1, 2]))


def test_where_a_guided_run_has_strength_1_its_bits_are_those_of_no_guidance(transformer: VideoARTransformer) -> None:
    """The paper's setting begins so: its very first block is unguided, and everything after it is not."""
    ids, bits = transformer.condition.of_batch(torch.tensor([0, 4]), []), []
    for guidance in (Guidance(), NO_GUIDANCE):
        first = next(Sampler(guidance).frames(transformer, ids, LAYOUT, generators(1, 2)))
        bits.append(first.bits)
    same = [torch.equal(guided, plain) for guided, plain in zip(*bits, strict=True)]
    assert same[0] and not all(same)


def test_guidance_has_the_papers_corners() -> None:
    ucf = Guidance()
    assert [ucf.strength(0, 0), ucf.weight_at(1, 0), ucf.weight_at(0, 1), ucf.weight_at(1, 1), ucf.weight_at(0.5, 0)] == [1, 5, 10, 10, 3]
    text = Guidance(5, 4, 4, 3)
    assert [text.strength(0, 0), text.weight_at(1, 1), text.weight_at(0.5, 0.5)] == [5, 3, 4]


def test_given_frames_are_kept_bit_for_bit(transformer: VideoARTransformer, tokenizer: VideoTokenizer) -> None:
    given = latents(2)
    made = sample(transformer, Sampler(), [0, 1], [0, 1], prefix=given)
    torch.testing.assert_close(made[:, :, :2], tokenizer.quantize(given).latent)


def test_draw_follows_temperature_and_top_p() -> None:
    logits, uniform = torch.tensor([3.0, -3.0]), torch.tensor([0.999, 0.001])
    assert Sampler().draw(logits, uniform).tolist() == [False, True]
    assert Sampler(temperature=0.0).draw(logits, uniform).tolist() == [True, False]
    assert Sampler(top_p=0.95).draw(logits, uniform).tolist() == [True, False]
    with pytest.raises(ValueError, match=r"top_p must be above 0\.5"):
        Sampler(top_p=0.5)


@pytest.mark.parametrize("frames", [5, 9, 13, 21])
def test_videos_grow_window_by_window_and_keep_what_was_given(
    transformer: VideoARTransformer, tokenizer: VideoTokenizer, frames: int
) -> None:
    generate = Generation(tokenizer, transformer, Sampler(), ReEncoding(window=9, overlap=5))
    ids = transformer.condition.of_batch(torch.tensor([0, 1]), [])
    assert generate(ids, Clip(frames, 16, 16), [0, 1]).shape == (2, 3, frames, 16, 16)
    prefix = torch.rand(2, 3, 1, 16, 16) * 2 - 1
    made = generate(ids, Clip(frames, 16, 16), [0, 1], prefix)
    assert made.shape[2] == frames and torch.equal(made[:, :, :1], prefix)


def test_impossible_requests_are_refused(transformer: VideoARTransformer, tokenizer: VideoTokenizer) -> None:
    generate = Generation(tokenizer, transformer, Sampler(), ReEncoding(window=9, overlap=5))
    ids = transformer.condition.of_batch(torch.tensor([0]), [])
    with pytest.raises(ValueError, match="got 8"):
        generate(ids, Clip(8, 16, 16), [0])
    with pytest.raises(ValueError, match="leaves nothing of 9 frames"):
        generate(ids, Clip(9, 16, 16), [0], torch.zeros(1, 3, 9, 16, 16))
    with pytest.raises(ValueError, match="overlap must be at least 1"):
        ReEncoding(window=9, overlap=9)


@pytest.mark.parametrize("history", ["all_scales", "last_scale"])
def test_a_model_that_learned_one_clip_gives_it_back(history: str) -> None:
    """Greedy sampling repeats the clip: what training fed and what sampling feeds are the same thing."""
    latent = latents(3)[:1]
    transformer = perturbed(make_transformer(history=history))
    ids = transformer.condition.of_batch(torch.tensor([3]), [])
    batch_tokens = teacher_forcing(latent, BitCorruption(), LAYOUT.pyramid)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=3e-3)
    for _ in range(200):
        loss = bit_loss(transformer(batch_tokens.inputs, LAYOUT, ids, complete=batch_tokens.complete), batch_tokens.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (
        (transformer(batch_tokens.inputs, LAYOUT, ids, complete=batch_tokens.complete) > 0) == batch_tokens.targets
    ).float().mean() > 0.99
    made = sample(transformer, Sampler(NO_GUIDANCE, temperature=0.0), [3], [0])
    expected = VideoTokenizer(bits=8, channels=24, multipliers=(1,), blocks=1, temporal_factor=1).quantize(latent).latent
    torch.testing.assert_close(made, expected)
