"""Strategies for videos beyond the trained length: re-encoding (the paper) and a sliding KV cache (our addition)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Maps given frames (B, 3, h, H, W) or None, and the number of frames to generate (None: unlimited), to chunks of new frames.
WindowRollout = Callable[[Tensor | None, int | None], Iterator[Tensor]]


class LongVideoStrategy(ABC):
    """Strategy that extends videos beyond the trained length.

    Args:
        window: Video frames of one window, the longest clip the model was trained on.
        sink: Keep the first latent frame visible permanently.
    """

    def __init__(self, window: int, sink: bool) -> None:
        self.window, self.sink = window, sink

    @abstractmethod
    def frames(self, rollout: WindowRollout, given: Tensor | None, count: int | None) -> Iterator[Tensor]:
        """Yield chunks of new frames after the given ones: ``count`` frames, or without end for None."""

    def encodes(self, frames: int) -> bool:
        """Return True if generating this many frames needs the tokenizer's encoder."""
        return False

    def settings(self) -> dict[str, str | int | bool]:
        """Plain values for manifests and reports."""
        return {"kind": type(self).__name__, **vars(self)}


class ReEncoding(LongVideoStrategy):
    """The paper's: the last frames of a finished window are encoded again as the history of the next one.

    Args:
        window: Video frames of one window, the longest clip the model was trained on.
        overlap: Video frames carried over from one window to the next.

    Raises:
        ValueError: If ``overlap`` is not between 1 and ``window - 1``.
    """

    def __init__(self, window: int = 17, overlap: int = 9) -> None:
        if not 1 <= overlap < window:
            raise ValueError(f"the overlap must be at least 1 and less than the window, got {overlap} of {window} frames")
        super().__init__(window, sink=False)
        self.overlap = overlap

    def encodes(self, frames: int) -> bool:
        return frames > self.window

    def frames(self, rollout: WindowRollout, given: Tensor | None, count: int | None) -> Iterator[Tensor]:
        if given is not None and given.shape[2] >= self.window:
            given = given[:, :, -self.overlap :]
        made = 0
        while count is None or made < count:
            free = self.window - (0 if given is None else given.shape[2])
            pieces = [] if given is None else [given]
            for piece in rollout(given, free if count is None else min(free, count - made)):
                pieces.append(piece)
                made += piece.shape[2]
                yield piece
            given = torch.cat(pieces, dim=2)[:, :, -self.overlap :]


class KVCacheWindow(LongVideoStrategy):
    """Our addition: the tokens of the last frames stay in the cache, nothing is encoded again, and positions stay those of training.

    Args:
        window: Video frames of the longest clip the model was trained on; a frame sees the ones before it within such a window.
        sink: Keep the first latent frame visible in all later frames, in place of one of the others.
    """

    def __init__(self, window: int = 17, sink: bool = False) -> None:
        super().__init__(window, sink)

    def frames(self, rollout: WindowRollout, given: Tensor | None, count: int | None) -> Iterator[Tensor]:
        return rollout(given, count)
