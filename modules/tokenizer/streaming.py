"""Videos longer than memory: encoder and decoder chunk by chunk, with what they need of earlier chunks passed in and out (paper 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.tokenizer.causal_conv import Past
from modules.tokenizer.decoder import Decoder
from modules.tokenizer.encoder import Encoder


@dataclass(frozen=True)
class EncoderState:
    """Where the encoding of a chunk ended. A value: a stream may be continued from it more than once.

    Attributes:
        past: Last input frames of every convolution.
        waiting: ``(B, 3, n, H, W)`` video frames that do not fill a latent frame yet, fewer than the temporal factor.
    """

    past: Past
    waiting: Tensor


@dataclass(frozen=True)
class DecoderState:
    """Where the decoding of a chunk ended.

    Attributes:
        past: Last input frames of every convolution.
        frame: ``(B, d, h, w)``, the last latent frame; the next chunk must be of its size.
    """

    past: Past
    frame: Tensor


def encode_chunk(encoder: Encoder, chunk: Tensor, state: EncoderState | None) -> tuple[Tensor, EncoderState]:
    """The latent frames that ``(B, 3, n, H, W)`` more frames complete, n >= 1, and the state for the next chunk."""
    factor = encoder.shape.temporal_factor
    past = _copied(state)
    video = chunk if state is None else torch.cat([state.waiting, _like(state.waiting, chunk)], dim=2)
    alone = 1 if state is None else 0  # the first frame of a video fills a latent frame by itself
    ready = alone + (video.shape[2] - alone) // factor * factor
    latent = encoder(video[:, :, :ready].contiguous(memory_format=torch.channels_last_3d), past) if ready else _no_latent(encoder, video)
    return latent, EncoderState(past, video[:, :, ready:].clone())


def decode_chunk(decoder: Decoder, chunk: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
    """The video frames of ``(B, d, n, h, w)`` more latent frames, n >= 1, and the state for the next chunk."""
    past = _copied(state)
    latent = chunk if state is None else _like(state.frame.unsqueeze(2), chunk)
    return decoder(latent.contiguous(memory_format=torch.channels_last_3d), past), DecoderState(past, latent[:, :, -1].clone())


def _copied(state: EncoderState | DecoderState | None) -> Past:
    """What was kept, to be written over by the next chunk.

    All at once: kept frames that are made one by one, between the large temporaries of the layers, leave holes between these that the
    allocator cannot use again, and memory grows from chunk to chunk (measured: by a fifth over 30 chunks).
    """
    return {} if state is None else {part: frames.clone() for part, frames in state.past.items()}


def _like(before: Tensor, chunk: Tensor) -> Tensor:
    """The chunk, if it goes on where the one before ended."""
    for axis, name in ((0, "batch"), (1, "channels"), (3, "height"), (4, "width")):
        if chunk.shape[axis] != before.shape[axis]:
            raise ValueError(f"a chunk must have the {name} of the one before it, {before.shape[axis]}, got {chunk.shape[axis]}")
    return chunk


def _no_latent(encoder: Encoder, video: Tensor) -> Tensor:
    batch, _, _, height, width = video.shape
    factor = encoder.shape.spatial_factor
    return video.new_empty(batch, encoder.shape.bits, 0, height // factor, width // factor)
