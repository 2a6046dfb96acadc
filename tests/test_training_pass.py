"""A training step does no work twice: masks are kept, compiled graphs are reused, and neither changes what is computed."""

import pytest
import torch
import torch.nn.functional as F
from conftest import make_transformer, perturbed
from torch._dynamo.utils import counters

from modules.autoregression import BitCorruption, TeacherForcingBatch, bit_loss, teacher_forcing
from modules.geometry import Layout, Pyramid
from modules.transformer import Execution, RandomFrameMask, VideoARTransformer
from modules.transformer.sequence import History

LAYOUT = Layout(Pyramid.of(4, 4), 3)


def batch_tokens(ratio: float = 0.0) -> TeacherForcingBatch:
    return teacher_forcing(torch.randn(2, 8, 3, 4, 4), BitCorruption(0.0, ratio), LAYOUT.pyramid)


def loss_of(transformer: VideoARTransformer, taught: TeacherForcingBatch, kept: torch.Tensor | None = None) -> torch.Tensor:
    ids = torch.tensor([[0, 3], [2, 4]])
    return bit_loss(transformer(taught.inputs, LAYOUT, ids, kept, taught.complete), taught.targets)


def test_masks_are_made_once_and_validation_may_make_them_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    transformer, other = make_transformer(window=2), make_transformer(window=1)
    attend, masks = F.scaled_dot_product_attention, []

    def spy(*args: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        masks.append(attn_mask)
        return attend(*args, attn_mask=attn_mask)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.inference_mode():
        loss_of(transformer, batch_tokens())
    for _ in range(2):
        loss_of(transformer, batch_tokens()).backward()
    assert len({id(mask) for mask in masks}) == 1
    loss_of(other, batch_tokens())
    assert not torch.equal(masks[0], masks[-1])
    loss_of(transformer, batch_tokens(), RandomFrameMask(0.5).draw(2, 3, torch.device("cpu")))
    assert masks[-1].shape[0] == 2 and masks[0].ndim == 2


@pytest.mark.parametrize("history", ["all_scales", "last_scale"])
def test_compiled_steps_share_their_graphs_and_give_the_same_loss(history: History) -> None:
    transformer = perturbed(make_transformer(history=history))
    torch._dynamo.reset()
    counters.clear()
    compiled, graphs = torch.compile(transformer, backend="eager"), []
    for ratio in (0.0, 0.1, 0.3):
        taught, kept = batch_tokens(ratio), RandomFrameMask(ratio).draw(2, 3, torch.device("cpu"))
        loss = loss_of(compiled, taught, kept)
        loss.backward()
        torch.testing.assert_close(loss, loss_of(transformer, taught, kept))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[2] > 0, graphs
    assert not counters["recompiles"] and not counters["recompile_limit"]


@pytest.mark.parametrize("settings", [{}, {"history": "last_scale", "adaptive_norm": "none"}], ids=str)
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(settings: dict) -> None:
    whole, again = perturbed(make_transformer(**settings)), make_transformer(execution=Execution(activation_checkpointing=True), **settings)
    again.load_state_dict(whole.state_dict())
    taught, kept, held = batch_tokens(), RandomFrameMask(0.5).draw(2, 3, torch.device("cpu")), []
    for transformer in (whole, again):
        stored = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor, to=stored: to.append(tensor.numel()) or tensor, lambda tensor: tensor):
            loss = loss_of(transformer, taught, kept)
        loss.backward()
        held.append((loss, sum(stored)))
    assert torch.equal(held[0][0], held[1][0]) and held[1][1] < 0.5 * held[0][1]
    for (name, parameter), other in zip(whole.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0, atol=1e-7, msg=name)


def test_mixed_precision_keeps_logits_and_gradients_in_float32_and_the_loss_close() -> None:
    transformer = perturbed(make_transformer())
    taught = batch_tokens(0.1)
    exact = loss_of(transformer, taught)
    with torch.autocast("cpu", torch.bfloat16):
        logits = transformer(taught.inputs, LAYOUT, torch.tensor([[0, 3], [2, 4]]))
        loss = bit_loss(logits, taught.targets)
    loss.backward()
    assert logits.dtype == loss.dtype == torch.float32
    assert 0 < (loss - exact).abs() < 0.02 * exact
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in transformer.parameters())
