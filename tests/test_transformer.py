"""Nobody sees the future, decoding with a cache equals the full pass, masks equal nested loops, rotary scores are relative."""

import pytest
import torch
from conftest import count_parameters, make_transformer, perturbed

from modules.geometry import Layout, Pyramid
from modules.transformer import ClassCondition, PlainRope, RandomFrameMask, TextCondition, VideoARTransformer, check_scales
from modules.transformer.attention.masks import block_of_tokens, dense, frame_of_blocks, visible_blocks
from modules.transformer.attention.random_frame_mask import hide_frames
from modules.transformer.rope import MultiScaleTemporalRope, prompt_positions, rotate, token_positions
from modules.transformer.sequence import History, TokenSequence

LAYOUT = Layout(Pyramid.of(3, 4), 3)


def some_ids(transformer: VideoARTransformer) -> torch.Tensor:
    return transformer.condition.of_batch(torch.tensor([0, 5]), ["one two", "three"])


SETTINGS = [
    {},
    {"window": 1},
    {"adaptive_norm": "none"},
    {"history": "last_scale"},
    {"history": "last_scale", "window": 1},
    {"rope": PlainRope},
    {"rope": PlainRope, "history": "last_scale"},
]


def contexts() -> tuple[torch.Tensor, torch.Tensor]:
    """Contexts of all tokens, and complete features of all frames."""
    return torch.randn(2, LAYOUT.tokens, 8), torch.randn(2, 3, 8, 3, 4)


def step_by_step(transformer: VideoARTransformer, inputs: torch.Tensor, complete: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Logits of a block at a time, and how many tokens the cache held at the end."""
    decoding = transformer.start_decoding(transformer.condition(some_ids(transformer)), LAYOUT)
    logits = []
    for frame in range(LAYOUT.frames):
        if frame > 0:
            transformer.commit_frame(complete[:, frame - 1].flatten(2).transpose(1, 2), decoding)
        for scale in range(LAYOUT.pyramid.scales):
            logits.append(transformer.step(inputs[:, LAYOUT.block(frame, scale)], scale, decoding))
    return torch.cat(logits, dim=1), decoding.cache.length


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_block_by_block_logits_equal_the_full_pass(settings: dict) -> None:
    transformer, (inputs, complete) = perturbed(make_transformer(**settings)).eval(), contexts()
    with torch.no_grad():
        full = transformer(inputs, LAYOUT, some_ids(transformer), complete=complete)
        stepped, _ = step_by_step(transformer, inputs, complete)
    assert full.std() > 0.1
    torch.testing.assert_close(stepped, full, rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"window": 1}, {"history": "last_scale"}, {"history": "last_scale", "window": 1}], ids=str)
def test_block_by_block_logits_equal_the_full_pass_for_texts(settings: dict) -> None:
    transformer = VideoARTransformer(8, lambda width: TextCondition(width, 20, 6), width=48, layers=2, heads=2, **settings)
    perturbed(transformer).eval()
    transformer.condition.learn_names([], ["one two three"])
    inputs, complete = contexts()
    with torch.no_grad():
        full = transformer(inputs, LAYOUT, some_ids(transformer), complete=complete)
        stepped, _ = step_by_step(transformer, inputs, complete)
    torch.testing.assert_close(stepped, full, rtol=0, atol=1e-4)


def test_a_cache_holds_what_its_sequence_says() -> None:
    """With the history in one block, a past frame costs its full grid instead of all its scales; training has them both."""
    for history in ("all_scales", "last_scale"):
        transformer = make_transformer(history=history)
        sequence = TokenSequence(LAYOUT, 2, history)
        assert step_by_step(transformer, *contexts())[1] == sequence.max_cached_tokens(past=2)
        assert len(sequence.coordinates()) == sequence.tokens == sum(sequence.blocks().values())
    ucf = Layout(Pyramid.of(8, 8), 5)
    sizes = [
        (sequence.tokens, sequence.max_cached_tokens(past=4)) for sequence in (TokenSequence(ucf, 1), TokenSequence(ucf, 1, "last_scale"))
    ]
    assert sizes == [(651, 651), (907, 387)]


def test_spans_tile_the_sequence_and_history_blocks_stand_on_the_full_grid() -> None:
    sequence = TokenSequence(LAYOUT, 2, "last_scale")
    coordinates, at = sequence.coordinates(), 2
    for (frame, scale), tokens in list(sequence.blocks().items())[1:]:
        assert sequence.span(frame, scale) == slice(at, at + tokens)
        finest = LAYOUT.coordinates()[LAYOUT.block(frame, min(scale, LAYOUT.pyramid.scales - 1))]
        assert (coordinates[at : at + tokens, :2] == torch.tensor([frame, scale])).all()
        assert torch.equal(coordinates[at : at + tokens, 2:], finest[:, 2:])
        at += tokens
    assert torch.equal(coordinates[sequence.predicted()], LAYOUT.coordinates())
    assert (2, LAYOUT.pyramid.scales) not in sequence.blocks()


def test_with_the_last_scale_later_frames_see_complete_features_and_no_scales() -> None:
    transformer, (inputs, complete) = perturbed(make_transformer(history="last_scale")).eval(), contexts()
    before = transformer(inputs, LAYOUT, some_ids(transformer), complete=complete)
    changed_scales, changed_feature = inputs.clone(), complete.clone()
    changed_scales[:, LAYOUT.block(0, 0).start : LAYOUT.block(1, 0).start] += 1.0
    changed_feature[:, 0] += 1.0
    by_scales = (transformer(changed_scales, LAYOUT, some_ids(transformer), complete=complete) - before).abs().amax(dim=(0, 2))
    by_feature = (transformer(inputs, LAYOUT, some_ids(transformer), complete=changed_feature) - before).abs().amax(dim=(0, 2))
    second_frame = LAYOUT.block(1, 0).start
    assert by_scales[1:second_frame].amin() > 1e-4 and not by_scales[second_frame:].any()
    assert not by_feature[:second_frame].any() and by_feature[second_frame:].amin() > 1e-4
    with pytest.raises(ValueError, match="complete features of 3 frames"):
        transformer(inputs, LAYOUT, some_ids(transformer))


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


def slow_mask(sequence: TokenSequence, window: int | None, kept: torch.Tensor) -> torch.Tensor:
    """Who sees whom, from the rules in words, token by token."""
    tokens, scales = sequence.coordinates().tolist(), sequence.layout.pyramid.scales
    mask = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for row, (frame, scale, _, _) in enumerate(tokens):
        for column, (other, other_scale, _, _) in enumerate(tokens):
            history, other_history = scale == scales, other_scale == scales
            if other == -1:
                mask[row, column] = True
            elif other == frame:
                mask[row, column] = other_history if history else other_scale <= scale
            elif -1 < other < frame:
                near = (window is None or frame - other <= window) and kept[frame, other].item()
                mask[row, column] = near and (other_history or sequence.history == "all_scales")
    return mask


@pytest.mark.parametrize("history", ["all_scales", "last_scale"])
@pytest.mark.parametrize(("frames", "window"), [(1, None), (3, None), (4, 1), (4, 2)])
def test_mask_equals_nested_loops(frames: int, window: int | None, history: History) -> None:
    sequence = TokenSequence(Layout(Pyramid.of(2, 2), frames), 2, history)
    visible, block, everything = visible_blocks(sequence, window), block_of_tokens(sequence), torch.ones(frames, frames)
    assert torch.equal(dense(visible, block), slow_mask(sequence, window, everything))
    kept = RandomFrameMask(0.5).draw(3, frames, torch.device("cpu"))
    masks = dense(hide_frames(visible, kept, frame_of_blocks(sequence)), block)
    assert masks.shape[1] == 1
    for mask, clip in zip(masks[:, 0], kept, strict=True):
        assert torch.equal(mask, slow_mask(sequence, window, clip))


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


def test_plain_rotary_factors_are_those_of_a_llama() -> None:
    """Its formula: frequency i is base^(-2 i / head width), a token's angle is its index times that."""
    sequence, rope = TokenSequence(LAYOUT, 2, "last_scale"), PlainRope(16, base=500.0)
    cosines, sines = rope(rope.positions(sequence.coordinates(), 2))
    angles = torch.outer(torch.arange(sequence.tokens).float(), 1.0 / 500.0 ** (torch.arange(0, 16, 2) / 16))
    torch.testing.assert_close(torch.complex(cosines, sines), torch.polar(torch.ones_like(angles), angles), rtol=0, atol=1e-4)


def test_shares_divide_the_head_among_the_axes() -> None:
    assert MultiScaleTemporalRope(64).sections == (8, 12, 12)
    assert MultiScaleTemporalRope(64, (0.5, 0.25, 0.25)).sections == (16, 8, 8)


def test_positions_are_those_of_the_papers_figure() -> None:
    """Five condition tokens: (4, 4, 4) is the last; frame 1 starts at (5, 5, 5), its 2 x 2 scale too; frame 2 at (6, 5, 5)."""
    layout = Layout(Pyramid(((1, 1), (2, 2))), 2)
    positions = token_positions(layout.coordinates(), 5).tolist()
    assert prompt_positions(5, torch.device("cpu")).tolist()[-1] == [4, 4, 4]
    assert positions[:6] == [[5, 5, 5], [5, 5, 5], [5, 5, 6], [5, 6, 5], [5, 6, 6], [6, 5, 5]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rope": lambda head_dim: MultiScaleTemporalRope(head_dim, (0.5, 0.5, 0.5))}, "add up to 1, got .* = 1.5"),
        ({"width": 3, "heads": 1, "rope": PlainRope}, "head width 3"),
        ({"heads": 5}, "48 is not divisible by 5"),
        ({"heads": 24}, "rotary"),
        ({"window": 0}, "window must be at least 1"),
    ],
)
def test_impossible_transformers_are_refused_with_the_numbers(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoARTransformer(8, lambda width: TextCondition(width), **{"width": 48, "layers": 1, "heads": 2, **settings})


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_parameter_gets_a_gradient(settings: dict) -> None:
    transformer = perturbed(make_transformer(**settings))
    ids = torch.cat([some_ids(transformer), transformer.condition.nothing(1, torch.device("cpu"))])
    logits = transformer(torch.randn(3, LAYOUT.tokens, 8), LAYOUT, ids, complete=torch.randn(3, 3, 8, 3, 4))
    logits.square().mean().backward()
    assert [name for name, p in transformer.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_without_adaptive_norms_a_fresh_model_is_the_same_and_the_l_size_has_906_million_parameters() -> None:
    """At the start the modulation is zero, so leaving it out changes nothing; a trained one does change the logits."""
    modulated, plain = make_transformer().eval(), make_transformer(adaptive_norm="none").eval()
    left_out = plain.load_state_dict(modulated.state_dict(), strict=False)
    assert not left_out.missing_keys and all("adaptive" in key or "modulation" in key for key in left_out.unexpected_keys)
    inputs, ids = torch.randn(2, LAYOUT.tokens, 8), some_ids(plain)
    torch.testing.assert_close(plain(inputs, LAYOUT, ids), modulated(inputs, LAYOUT, ids), rtol=0, atol=1e-5)
    assert (plain(inputs, LAYOUT, ids) - perturbed(modulated)(inputs, LAYOUT, ids)).abs().amax() > 0.1
    with torch.device("meta"):
        large = VideoARTransformer(48, lambda width: ClassCondition(width, (101,)), 1536, 24, 12, adaptive_norm="none")
    assert f"{count_parameters(large) / 1e6:.1f}" == "906.4"


def test_without_adaptive_norms_the_condition_still_matters() -> None:
    plain = perturbed(make_transformer(adaptive_norm="none"))
    first, second = plain(torch.randn(1, LAYOUT.tokens, 8).repeat(2, 1, 1), LAYOUT, some_ids(plain))
    assert (first - second).abs().amax() > 1e-3


def test_grids_with_more_scales_than_embeddings_are_refused_with_the_numbers() -> None:
    check_scales(Layout(Pyramid.of(96, 96), 1))  # 16 scales
    wide = Layout(Pyramid.of(100, 100), 1)
    with pytest.raises(ValueError, match="a latent grid of 100 x 100 has 17 scales, and the transformer embeds 16"):
        check_scales(wide)
    model = make_transformer()
    with pytest.raises(ValueError, match="17 scales"):
        model.start_decoding(model.condition(torch.zeros(1, model.condition.length, dtype=torch.long)), wide)
