"""A video in pieces is the video as a whole: any pieces, both ways, in memory that does not grow."""

import subprocess
import sys

import pytest
import torch
from conftest import perturbed
from torch import Tensor

from modules.pixels import to_uint8, to_unit
from modules.tokenizer import StreamedReconstruction, VideoTokenizer, winograd_convolutions

CUTS = [[17], [1, 16], [1, 4, 4, 4, 4], [1] * 17, [5, 8, 4], [2, 3, 5, 7], [16, 1], [3, 14], [11, 2, 2, 2]]


def pieces(video: Tensor, lengths: list[int]) -> list[Tensor]:
    return list(video.split(lengths, dim=2))


@pytest.fixture(params=[1, 2, 4], ids=lambda tau: f"tau{tau}")
def streamed(request: pytest.FixtureRequest) -> VideoTokenizer:
    shape = {"bits": 8, "channels": 24, "multipliers": (1, 2, 1), "blocks": 1, "temporal_factor": request.param}
    return perturbed(VideoTokenizer(**shape)).eval()


@torch.no_grad()
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_encoding_in_pieces(streamed: VideoTokenizer, cut: list[int]) -> None:
    video, state, latents = torch.randn(2, 3, 17, 16, 8), None, []
    for piece in pieces(video, cut):
        latent, state = streamed.encode_chunk(piece, state)
        latents.append(latent)
    assert state.waiting.shape[2] == 0
    torch.testing.assert_close(torch.cat(latents, dim=2), streamed.encode(video), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("cut", [[5], [1, 4], [1] * 5, [2, 3], [4, 1]], ids=str)
def test_decoding_in_pieces(streamed: VideoTokenizer, cut: list[int]) -> None:
    latent, state, frames = torch.randn(2, 8, 5, 4, 2), None, []
    for piece in pieces(latent, cut):
        video, state = streamed.decode_chunk(piece, state)
        frames.append(video)
    torch.testing.assert_close(torch.cat(frames, dim=2), streamed.decode(latent), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_fast_decoding_in_pieces_agrees_to_rounding() -> None:
    """Other pieces mean other sums of the same products where convolutions save multiplications."""
    tokenizer = VideoTokenizer(bits=8, channels=32, multipliers=(1, 4), blocks=1, temporal_factor=2).eval()
    latent, state, frames = torch.randn(1, 8, 6, 24, 24), None, []
    with winograd_convolutions():
        whole = tokenizer.decode(latent)
        for piece in pieces(latent, [1, 5]):
            video, state = tokenizer.decode_chunk(piece, state)
            frames.append(video)
    plain = tokenizer.decode(latent)
    assert not torch.equal(whole, plain)  # it was taken
    torch.testing.assert_close(whole, plain, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat(frames, dim=2), plain, rtol=0, atol=1e-4)


@torch.no_grad()
def test_pieces_without_their_past_differ(tokenizer: VideoTokenizer) -> None:
    latent = torch.randn(1, 8, 4, 4, 4)
    alone = torch.cat([tokenizer.decode_chunk(piece)[0] for piece in pieces(latent, [2, 2])], dim=2)
    whole = tokenizer.decode(latent)
    assert alone.shape[2] < whole.shape[2] and (alone[:, :, 5] - whole[:, :, 5]).abs().max() > 1e-2


@torch.no_grad()
def test_a_state_is_a_value(tokenizer: VideoTokenizer) -> None:
    """Two streams go on from the same point, and side by side, without disturbing each other."""
    start, left, right = (torch.randn(1, 3, frames, 16, 16) for frames in (5, 4, 4))
    _, state = tokenizer.encode_chunk(start)
    first, _ = tokenizer.encode_chunk(left, state)
    tokenizer.encode_chunk(right, state)
    again, _ = tokenizer.encode_chunk(left, state)
    assert torch.equal(first, again)


def test_frames_that_fill_no_latent_wait(tokenizer: VideoTokenizer) -> None:
    latent, state = tokenizer.encode_chunk(torch.randn(1, 3, 4, 16, 16))
    assert latent.shape[2] == 1 and state.waiting.shape[2] == 3
    latent, state = tokenizer.encode_chunk(torch.randn(1, 3, 1, 16, 16), state)
    assert latent.shape == (1, 8, 1, 4, 4) and state.waiting.shape[2] == 0
    latent, state = tokenizer.encode_chunk(torch.randn(1, 3, 2, 16, 16), state)
    assert latent.shape == (1, 8, 0, 4, 4) and state.waiting.shape[2] == 2


def test_a_chunk_of_another_size_or_of_nothing_is_refused(tokenizer: VideoTokenizer) -> None:
    _, state = tokenizer.encode_chunk(torch.randn(1, 3, 5, 16, 16))
    with pytest.raises(ValueError, match="a chunk must have the width of the previous one, 16, got 20"):
        tokenizer.encode_chunk(torch.randn(1, 3, 4, 16, 20), state)
    with pytest.raises(ValueError, match="at least one frame"):
        tokenizer.encode_chunk(torch.randn(1, 3, 0, 16, 16), state)
    with pytest.raises(ValueError, match="height must be a multiple of 4, got 18"):
        tokenizer.encode_chunk(torch.randn(1, 3, 4, 18, 16))
    _, state = tokenizer.decode_chunk(torch.randn(1, 8, 1, 4, 4))
    with pytest.raises(ValueError, match="the batch of the previous one, 1, got 2"):
        tokenizer.decode_chunk(torch.randn(2, 8, 1, 4, 4), state)


@pytest.mark.parametrize("length", [1, 2, 5, 12, 17])
@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_a_file_of_any_length_and_size_comes_back_frame_for_frame(tokenizer: VideoTokenizer, length: int, size: int) -> None:
    video = torch.randint(256, (1, 3, length, 18, 15), dtype=torch.uint8)
    stream, chunks = StreamedReconstruction(tokenizer), list(video.split(size, dim=2))
    parts = [stream.push(chunk, last=chunk is chunks[-1]) for chunk in chunks]
    real, reconstructed = (torch.cat(kind, dim=2) for kind in zip(*parts, strict=True))
    assert torch.equal(real, video) and reconstructed.shape == video.shape
    whole = torch.nn.functional.pad(to_unit(video), (0, 1, 0, 2, 0, -(length - 1) % 4), mode="replicate")
    expected = to_uint8(tokenizer(whole).video)[:, :, :length, :18, :15]
    assert (reconstructed.int() - expected.int()).abs().max() <= 1  # a rounding's worth


MEMORY = """
import resource, sys, torch
from modules.tokenizer import VideoTokenizer
torch.set_num_threads(1)
tokenizer = VideoTokenizer(bits=8, channels=24, multipliers=(1, 1, 2), blocks=1, temporal_factor=4).eval()
encoder = decoder = None
with torch.no_grad():
    for start in range(0, int(sys.argv[1]), 8):
        frames = 1 if start == 0 else 8
        latent, encoder = tokenizer.encode_chunk(torch.rand(1, 3, frames, 96, 96), encoder)
        video, decoder = tokenizer.decode_chunk(tokenizer.quantize(latent).latent, decoder)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_length() -> None:
    peaks = [int(subprocess.check_output([sys.executable, "-c", MEMORY, str(frames)])) for frames in (33, 257)]
    assert peaks[1] <= 1.1 * peaks[0]
