"""A step that is recorded once and replayed gives the same bits as one that is computed anew, and few steps are recorded.

CUDA graphs need a GPU. Here a replay repeats a step on the CPU, and demands what a graph takes for granted: the same operations, with the
same numbers, on the same addresses.
"""

import copy
import gc
from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from conftest import make_transformer, perturbed
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from modules.autoregression import Generation, Guidance, KVCacheWindow, ReEncoding, Sampler
from modules.autoregression.long_video import LongVideoStrategy
from modules.geometry import Clip, Layout, Pyramid
from modules.tokenizer import VideoTokenizer
from modules.transformer import Execution, VideoARTransformer

LAYOUT = Layout(Pyramid.of(3, 4), 3)
SETTINGS: list[dict[str, Any]] = [{}, {"window": 1}, {"adaptive_norm": "none"}, {"history": "last_scale"}]
recordings = 0


class Watch(TorchDispatchMode):
    """Notes every operation: its numbers, and the addresses of all tensors that it did not make itself."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple] = []
        self._made: list[Tensor] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = {tensor.untyped_storage().data_ptr() for tensor in self._made}
        leaves = tree_leaves((args, kwargs or {}))
        self.seen.append((str(operation), *(self._note(leaf, made) for leaf in leaves)))
        result = operation(*args, **(kwargs or {}))
        before = {leaf.untyped_storage().data_ptr() for leaf in leaves if isinstance(leaf, Tensor)} - made
        new = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self._made += [tensor for tensor in new if tensor.untyped_storage().data_ptr() not in before]
        return result

    @staticmethod
    def _note(leaf: Any, made: set[int]) -> Any:
        if not isinstance(leaf, Tensor):
            return str(leaf)
        inside = leaf.untyped_storage().data_ptr() in made
        return ("made here" if inside else leaf.data_ptr(), leaf.shape, leaf.stride(), leaf.dtype)


class Replay:
    """What stands in for a CUDA graph."""

    def __init__(self, step: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        global recordings
        recordings += 1
        with torch.inference_mode(False):
            self.step, self.inputs = step, torch.empty_like(inputs)
        self.trace: list[tuple] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        self.inputs.copy_(inputs)
        # One mode for all, as operations are split differently in inference mode.
        with torch.inference_mode(False), torch.no_grad(), Watch() as watch:
            outputs = self.step(self.inputs)
        self.trace = self.trace or watch.seen
        assert len(watch.seen) > 5 and watch.seen == self.trace
        return outputs.clone()


class Replayed(Execution):
    """Records on every device."""

    def recorder(self, device: torch.device) -> type[Replay]:
        return Replay


def recorded(transformer: VideoARTransformer) -> VideoARTransformer:
    twin = copy.deepcopy(transformer)
    twin.execution = Replayed()
    return twin


def some_ids(transformer: VideoARTransformer, *classes: int) -> Tensor:
    return transformer.condition.of_batch(torch.tensor(classes), [])


def run(transformer: VideoARTransformer, seed: int, frames: int = 6, sink: bool = False) -> Tensor:
    """Logits of a run whose condition changes once, on random inputs."""
    chance = torch.Generator().manual_seed(seed)
    decoding, logits = transformer.start_decoding(transformer.condition(some_ids(transformer, 0, 5)), LAYOUT, sink), []
    for frame in range(frames):
        if frame > 0:
            transformer.commit_frame(torch.randn(2, 12, 8, generator=chance), decoding)
        if frame == 4:
            transformer.set_condition(transformer.condition(some_ids(transformer, seed % 6, 2)), decoding)
        for scale, area in enumerate(LAYOUT.pyramid.areas):
            logits.append(transformer.step(torch.randn(2, area, 8, generator=chance), scale, decoding))
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_replayed_steps_give_the_same_bits(settings: dict[str, Any]) -> None:
    """Of the run that records, and of later ones with other inputs and conditions, in inference mode and out of it."""
    plain = perturbed(make_transformer(**settings)).eval()
    replayed = recorded(plain)
    for seed in (0, 1):
        with torch.inference_mode(seed == 0):
            first, second = run(plain, seed), run(replayed, seed)
        assert torch.equal(first, second) and first.std() > 0.1
    sink = "window" not in settings
    assert torch.equal(run(replayed, 2, sink=sink), run(plain, 2, sink=sink))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_a_run_without_an_end_records_few_steps(settings: dict[str, Any]) -> None:
    """One per scale and number of past frames, history blocks among them, one for the very first block and one for the condition."""
    global recordings
    transformer, recordings = recorded(make_transformer(**settings).eval()), 0
    past = settings.get("window", LAYOUT.frames - 1)
    blocks = LAYOUT.pyramid.scales + (settings.get("history") == "last_scale")
    run(transformer, 0, frames=5)
    first = recordings
    assert first == (past + 1) * blocks + 1
    run(transformer, 0, frames=15)
    assert recordings == first


def test_the_window_of_one_frame_still_tells_the_first_block_from_later_ones() -> None:
    """No past frame is seen there, so the length of the cache does not tell them apart."""
    plain = perturbed(make_transformer()).eval()
    with torch.no_grad():
        layout, logits = Layout(LAYOUT.pyramid, 1), []
        for transformer in (plain, recorded(plain)):
            decoding = transformer.start_decoding(transformer.condition(some_ids(transformer, 0)), layout)
            first = transformer.step(torch.ones(1, 1, 8), 0, decoding)
            transformer.commit_frame(torch.ones(1, 12, 8), decoding)
            logits.append((first, transformer.step(torch.ones(1, 1, 8), 0, decoding)))
    assert all(torch.equal(one, other) for one, other in zip(*logits, strict=True))
    assert not torch.equal(*logits[0])


@torch.no_grad()
def test_runs_at_a_time_do_not_share_a_workspace_and_later_ones_do() -> None:
    transformer = recorded(make_transformer().eval())
    prompt = transformer.condition(some_ids(transformer, 0, 5))
    first, second = transformer.start_decoding(prompt, LAYOUT), transformer.start_decoding(prompt, LAYOUT)
    assert first.buffers is not second.buffers
    buffers = first.buffers
    del first
    gc.collect()
    third = transformer.start_decoding(prompt, LAYOUT)
    assert third.buffers is buffers and third.cache.length == 2
    assert transformer.start_decoding(transformer.condition(some_ids(transformer, 0)), LAYOUT).buffers not in (buffers, second.buffers)


@torch.no_grad()
def test_moved_weights_are_recorded_anew_and_copies_start_with_nothing() -> None:
    plain = perturbed(make_transformer()).eval()
    replayed = recorded(plain)
    run(replayed, 0)
    copied = copy.deepcopy(replayed)
    assert replayed.buffer_pool._kept and not copied.buffer_pool._kept
    for transformer in (plain, replayed, copied):
        transformer.double()
    assert torch.equal(run(plain.float(), 0), run(replayed.float(), 0))
    for transformer in (plain, replayed):  # in place, as an optimizer does it, which needs no new recording
        transformer.head.weight.mul_(1.5)
    assert torch.equal(run(plain, 1), run(replayed, 1))


@torch.no_grad()
def test_few_workspaces_are_kept() -> None:
    transformer = recorded(make_transformer().eval())
    for clips in range(1, 9):
        transformer.start_decoding(transformer.condition(some_ids(transformer, *[0] * clips)), LAYOUT)
    assert len(transformer.buffer_pool._kept) == 4


def videos(transformer: VideoARTransformer, tokenizer: VideoTokenizer, long_video: LongVideoStrategy, device: str = "cpu") -> Tensor:
    """Two streams whose frames are asked for in turns."""
    generate = Generation(tokenizer, transformer, Sampler(Guidance(1.0, 2.0, 3.0, 3.0)), long_video)
    ids = [some_ids(transformer, number, 4).to(device) for number in (0, 1)]
    streams = [generate.stream(one, Clip(1, 16, 16), [0, 1]) for one in ids]
    return torch.cat([piece for pieces in islice(zip(*streams, strict=True), 4) for piece in pieces], dim=2)


@pytest.mark.parametrize("long_video", [ReEncoding(9, 5), KVCacheWindow(9), KVCacheWindow(9, sink=True)], ids=["again", "kept", "sink"])
def test_videos_are_the_same(transformer: VideoARTransformer, tokenizer: VideoTokenizer, long_video: LongVideoStrategy) -> None:
    assert torch.equal(videos(transformer, tokenizer, long_video), videos(recorded(transformer), tokenizer, long_video))


def test_without_cuda_nothing_is_recorded() -> None:
    assert Execution(graphs=True).recorder(torch.device("cpu")) is None
    assert Execution().recorder(torch.device("cuda")) is None and Execution(graphs=True).recorder(torch.device("cuda")) is not None


@pytest.mark.gpu
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_graphs_on_a_gpu(settings: dict[str, Any], tokenizer: VideoTokenizer) -> None:
    """Logits, and videos with several runs at a time; under autocast, too."""
    plain = perturbed(make_transformer(**settings)).eval().cuda()
    graphed = copy.deepcopy(plain)
    graphed.execution = Execution(graphs=True)

    def logits(transformer: VideoARTransformer, frames: int) -> Tensor:
        ids, chance = some_ids(transformer, 0, 5).cuda(), torch.Generator().manual_seed(0)
        decoding, found = transformer.start_decoding(transformer.condition(ids), LAYOUT), []
        for frame in range(frames):
            if frame > 0:
                transformer.commit_frame(torch.randn(2, 12, 8, generator=chance).cuda(), decoding)
            for scale, area in enumerate(LAYOUT.pyramid.areas):
                found.append(transformer.step(torch.randn(2, area, 8, generator=chance).cuda(), scale, decoding))
        return torch.cat(found, dim=1)

    for frames in (7, 12):
        torch.testing.assert_close(logits(graphed, frames), logits(plain, frames), rtol=0, atol=1e-5)
    with torch.autocast("cuda", torch.bfloat16):
        torch.testing.assert_close(logits(graphed, 7), logits(plain, 7), rtol=0, atol=1e-2)
    assert graphed.buffer_pool._kept and not plain.buffer_pool._kept
    long_video = KVCacheWindow(9)
    made = [videos(transformer, tokenizer.cuda(), long_video, "cuda") for transformer in (plain, graphed)]
    torch.testing.assert_close(*made, rtol=0, atol=1e-3)
