"""Chunked reconstruction of a video of any length and size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modules.pixels import to_uint8, to_unit
from modules.tokenizer.float32 import true_float32
from modules.tokenizer.streaming import DecoderState, EncoderState
from modules.tokenizer.tokenizer import VideoTokenizer
from modules.tokenizer.winograd.conv import winograd_convolutions


class StreamedReconstruction:
    """Reconstruction of one video through the bits, chunk by chunk.

    Sizes that are not multiples of the tokenizer's factors are padded by repeating the last row, column and frame; the padding is removed
    from the result.

    Args:
        tokenizer: The tokenizer, in evaluation mode.
    """

    def __init__(self, tokenizer: VideoTokenizer) -> None:
        self.tokenizer = tokenizer
        self._encoder: EncoderState | None = None
        self._decoder: DecoderState | None = None
        self._real: Tensor | None = None

    @torch.no_grad()
    def push(self, chunk: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """Process the next frames.

        Args:
            chunk: ``(B, 3, T, H, W)`` uint8, T >= 1.
            last: Whether this is the last chunk.

        Returns:
            Original and reconstructed frames that are complete, ``(B, 3, n, H, W)`` uint8 each. Until the last chunk they lag behind
            by less than the temporal factor; ``n`` may be 0.
        """
        self._real = chunk if self._real is None else torch.cat([self._real, chunk], dim=2)
        video = self._pad(to_unit(chunk))
        reconstructed = [self._reconstruct(video)]
        if last and self._encoder is not None and (missing := -self._encoder.waiting.shape[2] % self.tokenizer.shape.temporal_factor):
            reconstructed.append(self._reconstruct(video[:, :, -1:].expand(-1, -1, missing, -1, -1)))
        frames = torch.cat(reconstructed, dim=2)[:, :, : self._real.shape[2], : chunk.shape[3], : chunk.shape[4]]
        real, self._real = self._real[:, :, : frames.shape[2]], self._real[:, :, frames.shape[2] :]
        return real, frames

    def _reconstruct(self, video: Tensor) -> Tensor:
        """Encode padded frames; return the uint8 frames that are complete."""
        with true_float32(video.device):  # lower precision would change bits
            latent, self._encoder = self.tokenizer.encode_chunk(video, self._encoder)
        if latent.shape[2] == 0:
            return video.new_empty(len(video), 3, 0, *video.shape[3:], dtype=torch.uint8)
        with winograd_convolutions():
            decoded, self._decoder = self.tokenizer.decode_chunk(self.tokenizer.quantize(latent).latent, self._decoder)
        return to_uint8(decoded)

    def _pad(self, video: Tensor) -> Tensor:
        factor = self.tokenizer.shape.spatial_factor
        below, right = -video.shape[3] % factor, -video.shape[4] % factor
        return F.pad(video, (0, right, 0, below, 0, 0), mode="replicate") if below or right else video
