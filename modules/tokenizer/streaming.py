"""Chunked encoding and decoding of videos that do not fit in memory (paper 4.1). States are passed in and returned."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modules.tokenizer.causal_conv import ConvCache
from modules.tokenizer.decoder import Decoder
from modules.tokenizer.encoder import Encoder


@dataclass(frozen=True)
class EncoderState:
    """State of the encoder after a chunk. Immutable: a stream can be continued from it more than once.

    Attributes:
        cache: Last input frames of each convolution.
        waiting: ``(B, 3, n, H, W)`` video frames not encoded yet, fewer than the temporal factor.
    """

    cache: ConvCache
    waiting: Tensor


@dataclass(frozen=True)
class DecoderState:
    """State of the decoder after a chunk.

    Attributes:
        cache: Last input frames of each convolution.
        frame: ``(B, d, h, w)``, the last latent frame; the next chunk must have its size.
    """

    cache: ConvCache
    frame: Tensor


def encode_chunk(encoder: Encoder, chunk: Tensor, state: EncoderState | None) -> tuple[Tensor, EncoderState]:
    """Encode ``n >= 1`` further frames ``(B, 3, n, H, W)``; return the latent frames they complete and the state for the next chunk."""
    factor = encoder.shape.temporal_factor
    cache = _copy_cache(state)
    video = chunk if state is None else torch.cat([state.waiting, _check_size(state.waiting, chunk)], dim=2)
    first = 1 if state is None else 0  # the first frame of a video has its own latent frame
    ready = first + (video.shape[2] - first) // factor * factor
    latent = (
        encoder(video[:, :, :ready].contiguous(memory_format=torch.channels_last_3d), cache) if ready else _empty_latent(encoder, video)
    )
    return latent, EncoderState(cache, video[:, :, ready:].clone())


def decode_chunk(decoder: Decoder, chunk: Tensor, state: DecoderState | None) -> tuple[Tensor, DecoderState]:
    """Decode ``n >= 1`` further latent frames ``(B, d, n, h, w)``; return their video frames and the state for the next chunk."""
    cache = _copy_cache(state)
    latent = chunk if state is None else _check_size(state.frame.unsqueeze(2), chunk)
    return decoder(latent.contiguous(memory_format=torch.channels_last_3d), cache), DecoderState(cache, latent[:, :, -1].clone())


def _copy_cache(state: EncoderState | DecoderState | None) -> ConvCache:
    """Copy of the cached frames, which the next chunk overwrites.

    All are copied at once: copies made one by one between the large temporaries of the layers fragment the allocator's memory, which then
    grows from chunk to chunk (measured: by a fifth over 30 chunks).
    """
    return {} if state is None else {module: frames.clone() for module, frames in state.cache.items()}


def _check_size(previous: Tensor, chunk: Tensor) -> Tensor:
    """Return the chunk; raise ``ValueError`` if its size differs from that of the previous one."""
    for axis, name in ((0, "batch"), (1, "channels"), (3, "height"), (4, "width")):
        if chunk.shape[axis] != previous.shape[axis]:
            raise ValueError(f"a chunk must have the {name} of the previous one, {previous.shape[axis]}, got {chunk.shape[axis]}")
    return chunk


def _empty_latent(encoder: Encoder, video: Tensor) -> Tensor:
    batch, _, _, height, width = video.shape
    factor = encoder.shape.spatial_factor
    return video.new_empty(batch, encoder.shape.bits, 0, height // factor, width // factor)
