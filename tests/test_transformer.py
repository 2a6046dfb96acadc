"""Nobody sees the future, decoding with a cache equals the full pass, masks equal nested loops, rotary scores are relative."""

import pytest
import torch
from conftest import count_parameters, make_transformer, shaken

from modules.geometry import Layout, Pyramid
from modules.transformer import ClassCondition, RandomFrameMask, TextCondition, VideoARTransformer
from modules.transformer.masks import block_causal, hide_frames
from modules.transformer.rope import MultiScaleTemporalRope, prompt_positions, rotate, token_positions

LAYOUT = Layout(Pyramid.of(3, 4), 3)


def some_ids(transformer: VideoARTransformer) -> torch.Tensor:
    return transformer.condition.of_batch(torch.tensor([0, 5]), ["one two", "three"])


@pytest.mark.parametrize("settings", [{}, {"window": 1}, {"adaptive_norm": "none"}], ids=str)
def test_block_by_block_logits_equal_the_full_pass(settings: dict) -> None:
    transformer = shaken(make_transformer(**settings)).eval()
    inputs, ids = torch.randn(2, LAYOUT.tokens, 8), some_ids(transformer)
    with torch.no_grad():
        full = transformer(inputs, LAYOUT, ids)
        decoding = transformer.begin(transformer.condition(ids), LAYOUT.tokens)
        blocks = [LAYOUT.block(frame, scale) for frame in range(3) for scale in range(LAYOUT.pyramid.scales)]
        stepped = torch.cat([transformer.step(inputs[:, block], LAYOUT.places()[block], decoding) for block in blocks], dim=1)
    assert full.std() > 0.1
    torch.testing.assert_close(stepped, full, rtol=0, atol=1e-4)


def test_later_inputs_change_no_earlier_logit(transformer: VideoARTransformer) -> None:
    inputs, ids = torch.randn(2, LAYOUT.tokens, 8), some_ids(transformer)
    for frame, scale in ((0, 1), (1, 0), (2, 2)):
        start = LAYOUT.block(frame, scale).start
        changed = inputs.clone()
        changed[:, start:] += 1.0
        before, after = transformer(inputs, LAYOUT, ids), transformer(changed, LAYOUT, ids)
        torch.testing.assert_close(before[:, :start], after[:, :start], rtol=0, atol=0)
        assert (before[:, start:] - after[:, start:]).abs().amax() > 1e-3


def test_tokens_of_a_block_see_one_another(transformer: VideoARTransformer) -> None:
    inputs, ids, block = torch.randn(2, LAYOUT.tokens, 8), some_ids(transformer), LAYOUT.block(1, 2)
    changed = inputs.clone()
    changed[:, block.stop - 1] += 1.0
    difference = (transformer(inputs, LAYOUT, ids) - transformer(changed, LAYOUT, ids)).abs()
    assert difference[:, block.start].amax() > 1e-4


@pytest.mark.parametrize(("frames", "window"), [(1, None), (3, None), (4, 1), (4, 2)])
def test_mask_equals_nested_loops(frames: int, window: int | None) -> None:
    places, prompt = Layout(Pyramid.of(2, 2), frames).places(), 2
    mask = block_causal(places, prompt, window)
    tokens = [(-1, 0)] * prompt + [(frame, scale) for frame, scale, _, _ in places.tolist()]
    for row, (frame, scale) in enumerate(tokens):
        for column, (other, other_scale) in enumerate(tokens):
            near = window is None or frame - other <= window
            allowed = other == -1 or (other < frame and near) or (other == frame and other_scale <= scale)
            assert mask[row, column].item() == allowed, (row, column)


def test_random_frame_mask_hides_past_frames_only() -> None:
    places, prompt = Layout(Pyramid.of(2, 2), 3).places(), 2
    full = block_causal(places, prompt, None)
    hidden = hide_frames(full, RandomFrameMask(1.0).draw(2, 3, places.device), places, prompt)[0, 0]
    frame = torch.cat([torch.tensor([-1, -1]), places[:, 0]])
    past = (frame[None, :] >= 0) & (frame[None, :] < frame[:, None])
    assert torch.equal(hidden, full & ~past)
    shown = hide_frames(full, RandomFrameMask(0.0).draw(2, 3, places.device), places, prompt)
    assert torch.equal(shown[1, 0], full)


def test_random_frame_mask_hides_at_its_rate_and_differs_between_clips() -> None:
    kept = RandomFrameMask(0.3).draw(100, 10, torch.device("cpu"))
    assert abs(kept.float().mean().item() - 0.7) < 3 * (0.21 / kept.numel()) ** 0.5
    assert not torch.equal(kept[0], kept[1])


def test_rotary_scores_depend_on_differences_only() -> None:
    rope = MultiScaleTemporalRope(16)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(a: list[int], b: list[int]) -> torch.Tensor:
        turned = [rotate(x, *rope(torch.tensor([place]))) for x, place in ((query, a), (key, b))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score([5, 7, 9], [3, 8, 1]), score([15, 17, 19], [13, 18, 11]), rtol=1e-4, atol=1e-4)
    assert not torch.isclose(score([5, 7, 9], [3, 8, 1]), score([6, 7, 9], [3, 8, 1]), rtol=1e-3)


def test_positions_are_those_of_the_papers_figure() -> None:
    """Five condition tokens: (4, 4, 4) is the last; frame 1 starts at (5, 5, 5), its 2 x 2 scale too; frame 2 at (6, 5, 5)."""
    layout = Layout(Pyramid(((1, 1), (2, 2))), 2)
    positions = token_positions(layout.places(), 5).tolist()
    assert prompt_positions(5, torch.device("cpu")).tolist()[-1] == [4, 4, 4]
    assert positions[:6] == [[5, 5, 5], [5, 5, 5], [5, 5, 6], [5, 6, 5], [5, 6, 6], [6, 5, 5]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"heads": 5}, "48 is not divisible by 5"), ({"heads": 24}, "rotary"), ({"window": 0}, "window must be at least 1")],
)
def test_impossible_transformers_are_refused_with_the_numbers(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoARTransformer(8, lambda width: TextCondition(width), **{"width": 48, "layers": 1, "heads": 2, **settings})


@pytest.mark.parametrize("settings", [{}, {"adaptive_norm": "none"}], ids=str)
def test_every_parameter_gets_a_gradient(settings: dict) -> None:
    transformer = shaken(make_transformer(**settings))
    ids = torch.cat([some_ids(transformer), transformer.condition.nothing(1, torch.device("cpu"))])
    transformer(torch.randn(3, LAYOUT.tokens, 8), LAYOUT, ids).square().mean().backward()
    assert [name for name, p in transformer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_without_adaptive_norms_a_fresh_model_is_the_same_and_the_l_size_has_906_million_parameters() -> None:
    """At the start the modulation is zero, so leaving it out changes nothing; a trained one does change the logits."""
    modulated, plain = make_transformer().eval(), make_transformer(adaptive_norm="none").eval()
    left_out = plain.load_state_dict(modulated.state_dict(), strict=False)
    assert not left_out.missing_keys and all("adaptive" in key or "modulation" in key for key in left_out.unexpected_keys)
    inputs, ids = torch.randn(2, LAYOUT.tokens, 8), some_ids(plain)
    torch.testing.assert_close(plain(inputs, LAYOUT, ids), modulated(inputs, LAYOUT, ids), rtol=0, atol=1e-5)
    assert (plain(inputs, LAYOUT, ids) - shaken(modulated)(inputs, LAYOUT, ids)).abs().amax() > 0.1
    with torch.device("meta"):
        large = VideoARTransformer(48, lambda width: ClassCondition(width, (101,)), 1536, 24, 12, adaptive_norm="none")
    assert f"{count_parameters(large) / 1e6:.1f}" == "906.4"


def test_without_adaptive_norms_the_condition_still_matters() -> None:
    plain = shaken(make_transformer(adaptive_norm="none"))
    first, second = plain(torch.randn(1, LAYOUT.tokens, 8).repeat(2, 1, 1), LAYOUT, some_ids(plain))
    assert (first - second).abs().amax() > 1e-3
