"""Videos without an end: streamed equals whole, memory stays, conditions change in time, and both ways to grow keep what was given."""

from itertools import islice

import pytest
import torch
from conftest import make_transformer, perturbed

from modules.autoregression import Generation, Guidance, KVCacheWindow, ReEncoding, Sampler
from modules.autoregression.generation import ConditionChange
from modules.autoregression.long_video import LongVideoStrategy
from modules.geometry import Clip
from modules.tokenizer import VideoTokenizer
from modules.transformer import VideoARTransformer

EXTENSIONS = [ReEncoding(9, 5), KVCacheWindow(9), KVCacheWindow(9, sink=True)]


def name_of(long_video: LongVideoStrategy) -> str:
    return type(long_video).__name__ + ("_sink" if long_video.sink else "")


def make(transformer: VideoARTransformer, tokenizer: VideoTokenizer, long_video: LongVideoStrategy) -> Generation:
    return Generation(tokenizer, transformer, Sampler(Guidance(1.0, 2.0, 3.0, 3.0)), long_video)


def of_classes(transformer: VideoARTransformer, *classes: int) -> torch.Tensor:
    return transformer.condition.of_batch(torch.tensor(classes), [])


def streamed(generate: Generation, ids: torch.Tensor, frames: int, **given: object) -> torch.Tensor:
    pieces, made = [], 0
    for piece in generate.stream(ids, Clip(1, 16, 16), [0, 1], **given):
        pieces.append(piece)
        made += piece.shape[2]
        if made >= frames:
            break
    return torch.cat(pieces, dim=2)


@pytest.mark.parametrize("given", [0, 1, 5, 13])
@pytest.mark.parametrize("long_video", EXTENSIONS, ids=name_of)
def test_streamed_frames_are_those_of_the_whole_video(
    transformer: VideoARTransformer, tokenizer: VideoTokenizer, long_video: LongVideoStrategy, given: int
) -> None:
    generate, ids = make(transformer, tokenizer, long_video), of_classes(transformer, 0, 4)
    prefix = torch.rand(2, 3, given, 16, 16) * 2 - 1 if given else None
    whole = generate(ids, Clip(33, 16, 16), [0, 1], prefix)
    assert whole.shape == (2, 3, 33, 16, 16)
    if prefix is not None:
        assert torch.equal(whole[:, :, :given], prefix)
    pieces = streamed(generate, ids, 33 - given, prefix=prefix)
    torch.testing.assert_close(pieces, whole[:, :, given:], rtol=0, atol=1e-4)


def test_a_stream_hands_out_frames_as_soon_as_a_latent_frame_is_there(transformer: VideoARTransformer, tokenizer: VideoTokenizer) -> None:
    stream = make(transformer, tokenizer, KVCacheWindow(9)).stream(of_classes(transformer, 0), Clip(1, 16, 16), [0])
    assert [piece.shape[2] for piece in islice(stream, 5)] == [1, 4, 4, 4, 4]


@pytest.mark.parametrize("history", ["all_scales", "last_scale"])
@pytest.mark.parametrize("long_video", EXTENSIONS, ids=name_of)
def test_ten_times_the_trained_length_in_constant_memory(tokenizer: VideoTokenizer, history: str, long_video: LongVideoStrategy) -> None:
    """All that a run keeps, weighed after one window and after ten."""
    transformer = perturbed(make_transformer(history=history)).eval()
    generate, weights = make(transformer, tokenizer, long_video), []
    stream = generate.stream(of_classes(transformer, 3), Clip(1, 16, 16), [0])
    for number, _ in zip(range(30), stream, strict=False):
        if number in (4, 29):
            weights.append(sum(tensor.untyped_storage().nbytes() for tensor in held(stream)))
    assert weights[0] == weights[1]


def held(stream: object) -> list[torch.Tensor]:
    """Every tensor that the suspended generator can reach, but the model's."""
    import gc

    found, seen, waiting = [], set(), [stream]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, torch.nn.Module | type | type(gc)) or callable(thing):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            found.append(thing)
        else:
            waiting += gc.get_referents(thing)
    return found


@pytest.mark.parametrize("long_video", EXTENSIONS, ids=name_of)
def test_a_changed_condition_changes_the_frames_from_its_time_on(
    transformer: VideoARTransformer, tokenizer: VideoTokenizer, long_video: LongVideoStrategy
) -> None:
    generate, ids = make(transformer, tokenizer, long_video), of_classes(transformer, 0, 4)
    clip, other = Clip(25, 16, 16), of_classes(transformer, 3, 1)
    plain, changed = generate(ids, clip, [0, 1]), generate(ids, clip, [0, 1], changes=[ConditionChange(13, other)])
    torch.testing.assert_close(changed[:, :, :13], plain[:, :, :13], rtol=0, atol=1e-5)
    assert (changed[:, :, 13:17] - plain[:, :, 13:17]).abs().max() > 1e-2
    torch.testing.assert_close(generate(ids, clip, [0, 1], changes=[ConditionChange(13, ids.clone())]), plain, rtol=0, atol=1e-5)
    late = generate(ids, clip, [0, 1], changes=[ConditionChange(14, other)])  # frames 13 to 16 share a latent frame, which is not split
    torch.testing.assert_close(late[:, :, :17], plain[:, :, :17], rtol=0, atol=1e-5)


def test_a_clip_that_fits_the_window_does_not_depend_on_how_it_would_grow(
    transformer: VideoARTransformer, tokenizer: VideoTokenizer
) -> None:
    ids = of_classes(transformer, 2)
    first, second, third = (make(transformer, tokenizer, long_video)(ids, Clip(9, 16, 16), [5]) for long_video in EXTENSIONS)
    assert torch.equal(first, second) and torch.equal(first, third)


def test_what_cannot_grow_is_refused(transformer: VideoARTransformer, tokenizer: VideoTokenizer) -> None:
    with pytest.raises(ValueError, match=r"long_video\.window must have .* got 10"):
        make(transformer, tokenizer, KVCacheWindow(10))
    generate = make(transformer, tokenizer, KVCacheWindow(5, sink=True))
    with pytest.raises(ValueError, match="at least 2 visible past frames, got 1"):
        generate(of_classes(transformer, 0), Clip(9, 16, 16), [0])
    with pytest.raises(ValueError, match="a prefix must have .* got 2"):
        next(generate.stream(of_classes(transformer, 0), Clip(1, 16, 16), [0], torch.zeros(1, 3, 2, 16, 16)))
