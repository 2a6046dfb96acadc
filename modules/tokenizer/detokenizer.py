"""The half of a tokenizer that turns bits into video, for runs over latents that were encoded beforehand."""

from __future__ import annotations

from typing import NoReturn

from torch import Tensor

from modules.tokenizer.streaming import EncoderState
from modules.tokenizer.tokenizer import VideoTokenizer

MISSING = (
    "which this model is built without: use modules.tokenizer.VideoTokenizer and give the file of the tokenizer as well, "
    "--init_from '[MODEL, TOKENIZER]'"
)


class Detokenizer(VideoTokenizer):
    """A :class:`VideoTokenizer` whose encoder is neither built nor loaded. Arguments are the same; what encodes raises ``ValueError``."""

    encodes = False

    def encode(self, video: Tensor) -> NoReturn:
        raise ValueError(f"video cannot be encoded without the tokenizer's encoder, {MISSING}")

    def encode_chunk(self, chunk: Tensor, state: EncoderState | None = None) -> NoReturn:
        self.encode(chunk)
