"""From a condition to a video of any length: sampling, decoding, and extension by re-encoding (paper, inference)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.autoregression.sampler import Sampler
from modules.geometry import Clip
from modules.tokenizer import VideoTokenizer, fast_convolutions
from modules.transformer import VideoARTransformer


@dataclass(frozen=True)
class Extension:
    """How videos grow beyond the trained length: the last frames of a window are encoded again as the history of the next one.

    Args:
        window: Video frames of one window, the longest clip the model was trained on.
        overlap: Video frames carried over from one window to the next.

    Raises:
        ValueError: If nothing new would fit into a window.
    """

    window: int = 17
    overlap: int = 9

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.window:
            raise ValueError(f"the overlap must be at least 1 and less than the window, got {self.overlap} of {self.window} frames")


@dataclass(frozen=True)
class Generation:
    """Everything that makes a video from a condition.

    Attributes:
        tokenizer: Bits to pixels and back.
        transformer: The model.
        sampler: How bits are drawn.
        extension: How videos grow beyond the trained length.

    Raises:
        ValueError: If the extension's windows or overlaps are no lengths that the tokenizer can make.
    """

    tokenizer: VideoTokenizer
    transformer: VideoARTransformer
    sampler: Sampler
    extension: Extension

    def __post_init__(self) -> None:
        for name in ("window", "overlap"):
            self.tokenizer.latent_frames(getattr(self.extension, name), f"extension.{name}")

    @torch.no_grad()
    def __call__(self, ids: Tensor, clip: Clip, seeds: Sequence[int], prefix: Tensor | None = None) -> Tensor:
        """Make one video per row of ``ids``.

        Args:
            ids: ``(B, P)`` condition ids.
            clip: Frames (those of the prefix included), height and width of the result.
            seeds: A seed per clip.
            prefix: ``(B, 3, F, H, W)`` in [-1, 1], given frames to continue; they are part of the result as they are.

        Returns:
            ``(B, 3, frames, height, width)``, about [-1, 1], not clamped.

        Raises:
            ValueError: For a length or size the tokenizer cannot make, or a prefix that leaves nothing to generate.
        """
        self.tokenizer.layout(clip)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if prefix is None:
            video = self._window(ids, clip, None, generators, min(clip.frames, self.extension.window))
        else:
            video = self._checked(prefix, clip)
        while video.shape[2] < clip.frames:
            history = video[:, :, -self.extension.overlap :]
            frames = min(self.extension.window, history.shape[2] + clip.frames - video.shape[2])
            window = self._window(ids, clip, history, generators, frames)
            video = torch.cat([video, window[:, :, history.shape[2] :]], dim=2)
        return video

    def _checked(self, prefix: Tensor, clip: Clip) -> Tensor:
        self.tokenizer.latent_frames(prefix.shape[2], "a prefix")
        if prefix.shape[2] >= clip.frames:
            raise ValueError(f"a prefix of {prefix.shape[2]} frames leaves nothing of {clip.frames} frames to generate")
        return prefix

    def _window(self, ids: Tensor, clip: Clip, history: Tensor | None, generators: Sequence[torch.Generator], frames: int) -> Tensor:
        """One window of ``frames`` video frames that starts with the given history."""
        layout = self.tokenizer.layout(Clip(frames, clip.height, clip.width))
        prefix = None if history is None else self.tokenizer.encode_for_tokens(history)
        latent = torch.stack([frame.complete for frame in self.sampler.frames(self.transformer, ids, layout, generators, prefix)], dim=2)
        with fast_convolutions():
            video = self.tokenizer.decode(latent)
        return video if history is None else torch.cat([history, video[:, :, history.shape[2] :]], dim=2)
