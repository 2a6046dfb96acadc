"""A run without an end equals what its rules say in words: windows slide, the condition moves along, a first frame may stay."""

import pytest
import torch
from conftest import make_transformer, perturbed
from torch import Tensor

from modules.geometry import Layout, Pyramid
from modules.transformer import PlainRope, VideoARTransformer
from modules.transformer.block import modulate
from modules.transformer.rope import rotate
from modules.transformer.sequence import TokenSequence

LAYOUT = Layout(Pyramid.of(3, 4), 3)
FRAMES = 7


def run(transformer: VideoARTransformer, inputs: Tensor, complete: Tensor, ids: list[Tensor], sink: bool) -> tuple[Tensor, int]:
    """Logits of all frames, with the condition told anew at every frame, and the largest cache on the way."""
    decoding, most = transformer.start_decoding(transformer.condition(ids[0]), LAYOUT, sink), 0
    logits = []
    for frame in range(FRAMES):
        if frame > 0:
            transformer.commit_frame(complete[:, frame - 1].flatten(2).transpose(1, 2), decoding)
            if not torch.equal(ids[frame], ids[frame - 1]):
                transformer.set_condition(transformer.condition(ids[frame]), decoding)
        for scale in range(LAYOUT.pyramid.scales):
            block = Layout(LAYOUT.pyramid, FRAMES).block(frame, scale)
            logits.append(transformer.step(inputs[:, block], scale, decoding))
            most = max(most, decoding.cache.length)
    return torch.cat(logits, dim=1), most


def slow(transformer: VideoARTransformer, inputs: Tensor, complete: Tensor, ids: list[Tensor], sink: bool) -> Tensor:
    """The same without a cache: all tokens of a long video at once, every query looking up who it sees and how far away that is."""
    sequence = TokenSequence(Layout(LAYOUT.pyramid, FRAMES), transformer.condition.length, transformer.history)
    coordinates, length, rope = sequence.coordinates(), sequence.prompt_length, transformer.rope
    positions, period = rope.positions(coordinates, length), torch.tensor(rope.period(sequence.frame_tokens))
    frame, scale = coordinates[:, 0], coordinates[:, 1]
    past = min(transformer.window or 99, LAYOUT.frames - 1)
    stays = [coordinates[:, 0] == 0] if sink else []
    tokens, prompts = [], []
    for told in ids:  # every frame has a condition of its own, which nobody else sees
        prompt = transformer.condition(told)
        tokens.append(prompt.tokens)
        prompts.append(transformer._modulation(prompt.pooled))
    video = transformer._with_history(inputs, complete, sequence)
    opening = ((frame[length:] == 0) & (scale[length:] == 0))[:, None]
    embedded = torch.where(opening, transformer.start, transformer.project(video))
    embedded = embedded + transformer._scales(LAYOUT)[scale[length:]]
    hidden = torch.cat([*tokens, embedded], dim=1)

    told = torch.arange(FRAMES).repeat_interleave(length)
    owner = torch.cat([told, frame[length:]])  # the frame whose condition modulates a token
    is_prompt = torch.arange(len(owner)) < FRAMES * length
    where = torch.cat([positions[:length].repeat(FRAMES, 1), positions[length:]])
    level = torch.cat([torch.zeros_like(told), scale[length:]])
    history = (level == LAYOUT.pyramid.scales) & ~is_prompt

    def sees(query: int, key: int) -> bool:
        if is_prompt[key]:
            return bool(owner[query] == owner[key])
        if is_prompt[query]:
            return False
        distance = int(owner[query] - owner[key])
        if distance == 0:
            return bool(history[key]) if history[query] else bool(level[key] <= level[query] and not history[key])
        kept = past - 1 if sink else past
        # A history block is written before the oldest frame is forgotten, one frame after the scales of its frame looked at theirs.
        near = 0 < distance <= kept or (sink and owner[key] == 0 and distance > 0)
        return near and (bool(history[key]) or transformer.history == "all_scales")

    count = len(owner)
    mask = torch.tensor([[sees(query, key) for key in range(count)] for query in range(count)])
    anchored = is_prompt.clone()
    if stays:
        anchored[FRAMES * length :] |= stays[0][length:]
    modulation = torch.stack([one.blocks for one in prompts], dim=1)[:, owner].unbind(dim=2)
    for block in transformer.blocks:
        extra = block.modulation
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = (part + extra[number] for number, part in enumerate(modulation))
        attention = block.attention
        qkv = attention.qkv(modulate(block.attention_norm(hidden), scale_1, shift_1))
        query, key, value = qkv.unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = attention.query_norm(query), attention.key_norm(key)
        rows = []
        for row in range(count):
            beyond = 0 if is_prompt[row] else max(0, int(owner[row]) - (LAYOUT.frames - 1))
            moved = where + torch.where(anchored[:, None], beyond * period, 0)
            turned = rotate(key, *rope(moved))
            asked = rotate(query[:, :, row : row + 1], *rope(where[row : row + 1]))
            rows.append(torch.nn.functional.scaled_dot_product_attention(asked, turned, value, attn_mask=mask[row : row + 1]))
        attended = attention.out(torch.cat(rows, dim=2).transpose(1, 2).flatten(2))
        hidden = hidden + (1 + gate_1) * attended
        hidden = hidden + (1 + gate_2) * block.feed_forward(modulate(block.feed_forward_norm(hidden), scale_2, shift_2))
    head_scale, head_shift = torch.stack([one.head for one in prompts], dim=1)[:, owner].unbind(dim=2)
    logits = transformer.head(modulate(transformer.head_norm(hidden), head_scale, head_shift))[:, FRAMES * length :]
    return logits[:, ~history[FRAMES * length :]]


@pytest.mark.parametrize("told", ["once", "again"])
@pytest.mark.parametrize("sink", [False, True], ids=["slides", "sink"])
@pytest.mark.parametrize("settings", [{}, {"window": 1}, {"history": "last_scale"}, {"rope": PlainRope}], ids=str)
def test_a_run_longer_than_training_equals_its_rules(settings: dict, sink: bool, told: str) -> None:
    if sink and "window" in settings:
        pytest.skip("refused, see below")
    transformer = perturbed(make_transformer(**settings)).eval()
    ids = [
        transformer.condition.of_batch(torch.tensor([0, 5] if told == "once" or frame < 2 else [frame % 6, 1]), [])
        for frame in range(FRAMES)
    ]
    inputs, complete = torch.randn(2, FRAMES * LAYOUT.pyramid.tokens, 8), torch.randn(2, FRAMES, 8, 3, 4)
    with torch.no_grad():
        fast, most = run(transformer, inputs, complete, ids, sink)
        expected = slow(transformer, inputs, complete, ids, sink)
    assert expected.std() > 0.1
    torch.testing.assert_close(fast, expected, rtol=0, atol=1e-4)
    past = min(transformer.window or 99, LAYOUT.frames - 1)
    assert most == TokenSequence(LAYOUT, 2, transformer.history).max_cached_tokens(past)


def test_a_sink_that_leaves_no_room_is_refused() -> None:
    transformer = make_transformer(window=1)
    prompt = transformer.condition(transformer.condition.of_batch(torch.tensor([0]), []))
    with pytest.raises(ValueError, match="at least 2 visible past frames, got 1"):
        transformer.start_decoding(prompt, LAYOUT, sink=True)
