"""Decoder half of a tokenizer, for training on precomputed latents."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from modules.tokenizer.streaming import EncoderState
from modules.tokenizer.tokenizer import VideoTokenizer

# End of the error message of everything that needs the encoder.
NO_ENCODER = (
    "which this model does not have: use modules.tokenizer.VideoTokenizer and give the tokenizer's file as well, "
    "--init_from '[MODEL, TOKENIZER]'"
)


class Detokenizer(VideoTokenizer):
    """:class:`VideoTokenizer` without an encoder. Arguments are the same; encoding raises ``ValueError``."""

    has_encoder = False

    def encode(self, video: Tensor) -> NoReturn:
        raise ValueError(f"video cannot be encoded without the tokenizer's encoder, {NO_ENCODER}")

    def encode_chunk(self, chunk: Tensor, state: EncoderState | None = None) -> NoReturn:
        self.encode(chunk)
