"""FlexAttention is the dense mask without the mask: the same rule, the same tiles, the same logits and, on a GPU, gradients."""

import pytest
import torch
from conftest import make_transformer, perturbed

from modules.geometry import Layout, Pyramid
from modules.transformer import Execution, RandomFrameMask, VideoARTransformer
from modules.transformer.attention.flex import TILE, look_up, make_flex
from modules.transformer.attention.masks import block_of_tokens, dense, frame_of_blocks, visible_blocks
from modules.transformer.attention.random_frame_mask import hide_frames
from modules.transformer.sequence import TokenSequence

CPU = torch.device("cpu")
FLEX, DENSE = Execution("flex"), Execution("dense")


def random_case(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Visibility of blocks, and the blocks of tokens, for a random sequence, window and, in every second case, random frame mask."""
    draw = torch.Generator().manual_seed(number)
    height, width, frames, window, prompt = (int(torch.randint(1, most, (), generator=draw)) for most in (10, 10, 9, 3, 6))
    layout = Layout(Pyramid.of(height, width), frames)
    sequence = TokenSequence(layout, prompt, "last_scale" if number % 3 else "all_scales")
    visible = visible_blocks(sequence, window if number % 4 else None)
    if number % 2:
        visible = hide_frames(visible, RandomFrameMask(0.4).draw(2, frames, CPU), frame_of_blocks(sequence))
    return visible, block_of_tokens(sequence)


@pytest.mark.parametrize("number", range(5))
def test_the_rule_for_tokens_equals_the_dense_mask(number: int) -> None:
    visible, block = random_case(number)
    tokens = torch.arange(len(block))
    clips = torch.arange(len(visible) if visible.ndim == 3 else 2)[:, None, None, None]
    looked_up = look_up(visible, block)(clips, torch.tensor(0), tokens[:, None], tokens[None, :])
    assert torch.equal(looked_up.expand(len(clips), 1, -1, -1), dense(visible, block).expand(len(clips), 1, -1, -1))


@pytest.mark.parametrize("number", range(5))
def test_tiles_are_those_that_pytorch_finds_in_the_dense_mask(number: int) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    visible, block = random_case(number)
    mask = make_flex(visible, block).mask
    expected = create_block_mask(
        look_up(visible, block), len(visible) if visible.ndim == 3 else None, None, *[len(block)] * 2, device="cpu"
    )
    assert mask.seq_lengths == expected.seq_lengths and mask.BLOCK_SIZE == expected.BLOCK_SIZE
    for name in ("kv", "full_kv", "q", "full_q"):
        counts, wanted = (getattr(found, f"{name}_num_blocks") for found in (mask, expected))
        assert torch.equal(counts, wanted), name
        held = torch.arange(wanted.shape[-1]) < wanted[..., None]
        indices, wanted_indices = (getattr(found, f"{name}_indices") for found in (mask, expected))
        assert torch.equal(indices[held], wanted_indices[held]), name


def test_the_cases_above_have_partial_whole_and_skipped_tiles() -> None:
    masks = [make_flex(*random_case(number)).mask for number in range(20)]
    assert all(any(getattr(mask, name).any() for mask in masks) for name in ("kv_num_blocks", "full_kv_num_blocks"))
    assert sum(len(random_case(number)[1]) > 3 * TILE for number in range(20)) >= 4
    assert any((mask.to_dense().tril() < torch.ones(mask.to_dense().shape[-2:]).tril()).any() for mask in masks)


def pair(execution: Execution, **settings: object) -> tuple[VideoARTransformer, VideoARTransformer]:
    """The same weights with another execution, and with the dense one."""
    other, reference = make_transformer(execution=execution, **settings), perturbed(make_transformer(execution=DENSE, **settings))
    other.load_state_dict(reference.state_dict())
    return other, reference


def inputs_of(layout: Layout, device: torch.device) -> dict[str, object]:
    height, width = layout.pyramid.sizes[-1]
    return {
        "inputs": torch.randn(2, layout.tokens, 8, device=device),
        "layout": layout,
        "ids": torch.tensor([[0, 3], [2, 4]], device=device),
        "complete": torch.randn(2, layout.frames, 8, height, width, device=device),
    }


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("settings", [{}, {"window": 1}, {"history": "last_scale"}], ids=str)
def test_logits_without_the_dense_mask_are_the_same(settings: dict) -> None:
    layout = Layout(Pyramid.of(6, 6), 3)
    flex, reference = pair(FLEX, **settings)
    given = inputs_of(layout, CPU)
    with torch.no_grad():
        for kept in (None, RandomFrameMask(0.5).draw(2, 3, CPU)):
            torch.testing.assert_close(flex(**given, frame_mask=kept), reference(**given, frame_mask=kept), rtol=0, atol=1e-4)


def test_only_long_sequences_on_cuda_with_gradients_are_automatic() -> None:
    automatic, cuda, paper = Execution("auto"), torch.device("cuda"), 17 * 2628
    assert automatic.flex(cuda, paper) and not automatic.flex(CPU, paper) and not automatic.flex(cuda, 5 * 130)
    with torch.no_grad():
        assert not automatic.flex(cuda, paper) and FLEX.flex(CPU, 5 * 130)
    assert not DENSE.flex(cuda, paper)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention has gradients on CUDA only")
@pytest.mark.parametrize("settings", [{}, {"window": 1}, {"history": "last_scale"}], ids=str)
def test_gradients_without_the_dense_mask_are_the_same(settings: dict) -> None:
    device, layout = torch.device("cuda"), Layout(Pyramid.of(8, 8), 5)
    flex, reference = (model.to(device) for model in pair(FLEX, **settings))
    given = inputs_of(layout, device)
    for kept in (None, RandomFrameMask(0.5).draw(2, 5, device), RandomFrameMask(0.5).draw(2, 5, device)):
        losses = [model(**given, frame_mask=kept).square().mean() for model in (flex, reference)]
        torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
        for loss in losses:
            loss.backward()
    for (name, found), wanted in zip(flex.named_parameters(), reference.parameters(), strict=True):
        assert (found.grad - wanted.grad).norm() <= 1e-2 * wanted.grad.norm() + 1e-6, name
