"""Generation of videos of any length from a condition, whole or streamed (paper, inference)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from modules.autoregression.long_video import LongVideoStrategy
from modules.autoregression.sampler import Sampler, SamplingRun
from modules.geometry import Clip
from modules.tokenizer import VideoTokenizer, winograd_convolutions
from modules.tokenizer.detokenizer import NO_ENCODER
from modules.tokenizer.streaming import DecoderState
from modules.transformer import VideoARTransformer


class ConditionChange(NamedTuple):
    """Condition ids ``(B, P)`` that hold from video frame ``frame`` on."""

    frame: int
    ids: Tensor


def merge_condition_changes(first: Sequence[str], later: Sequence[Sequence[tuple[float, str]]], fps: float) -> list[tuple[int, list[str]]]:
    """Merge per-clip condition changes into changes of the whole batch.

    Args:
        first: Initial condition of every clip.
        later: ``(second, condition)`` changes of every clip, in order.
        fps: Video frames per second.

    Returns:
        Video frames at which any clip changes, each with the conditions of all clips from there on.
    """
    frames = [[(round(second * fps), condition) for second, condition in changes] for changes in later]
    moments = sorted({frame for changes in frames for frame, _ in changes})
    clips = list(zip(first, frames, strict=True))
    return [(moment, [[start, *(text for at, text in changes if at <= moment)][-1] for start, changes in clips]) for moment in moments]


@dataclass(frozen=True)
class Generation:
    """Video generator: tokenizer, transformer, sampler and long-video strategy.

    Attributes:
        tokenizer: Bits to pixels and back.
        transformer: The model.
        sampler: How bits are drawn.
        long_video: How videos grow beyond the trained length.

    Raises:
        ValueError: If the long_video's window or overlap is no length that the tokenizer can make.
    """

    tokenizer: VideoTokenizer
    transformer: VideoARTransformer
    sampler: Sampler
    long_video: LongVideoStrategy

    def __post_init__(self) -> None:
        for name in ("window", "overlap"):
            if hasattr(self.long_video, name):
                self.tokenizer.latent_frames(getattr(self.long_video, name), f"long_video.{name}")

    def check_encoder(self, frames: int, given: bool = False) -> None:
        """Raise ``ValueError`` if a video of ``frames`` frames, or one continuing ``given`` frames, needs a missing encoder."""
        if not self.tokenizer.has_encoder and (given or self.long_video.encodes(frames)):
            what = "a video that continues given frames" if given else f"a video of {frames} frames, longer than model.long_video.window,"
            raise ValueError(f"{what} needs the tokenizer's encoder, {NO_ENCODER}")

    @torch.no_grad()
    def __call__(
        self, ids: Tensor, clip: Clip, seeds: Sequence[int], prefix: Tensor | None = None, changes: Sequence[ConditionChange] = ()
    ) -> Tensor:
        """Make one video per row of ``ids``.

        Args:
            ids: ``(B, P)`` condition ids.
            clip: Frames (those of the prefix included), height and width of the result.
            seeds: A seed per clip.
            prefix: ``(B, 3, F, H, W)`` in [-1, 1], given frames to continue; they are part of the result as they are.
            changes: Conditions that replace the first one later on.

        Returns:
            ``(B, 3, frames, height, width)``, about [-1, 1], not clamped.

        Raises:
            ValueError: For a length or size the tokenizer cannot make, or a prefix that leaves nothing to generate.
        """
        self.tokenizer.layout(clip)
        given = 0 if prefix is None else prefix.shape[2]
        if given >= clip.frames:
            raise ValueError(f"a prefix of {given} frames leaves nothing of {clip.frames} frames to generate")
        # Decoded a window at a time: whole windows take less time than their latent frames one by one.
        rollout = self._rollout(ids, clip, seeds, prefix, changes, together=self.tokenizer.latent_frames(self.long_video.window))
        pieces = list(self.long_video.frames(rollout, prefix, clip.frames - given))
        return torch.cat(pieces if prefix is None else [prefix, *pieces], dim=2)

    @torch.no_grad()
    def stream(
        self, ids: Tensor, clip: Clip, seeds: Sequence[int], prefix: Tensor | None = None, changes: Sequence[ConditionChange] = ()
    ) -> Iterator[Tensor]:
        """The frames of a video without an end, each piece as soon as its latent frame is decoded.

        Memory does not grow, and leaving the loop ends it. Arguments as for making a whole video, whose number of frames is not used;
        the given frames are not repeated.

        Yields:
            ``(B, 3, n, height, width)``: one frame at the very start, then as many as share a latent frame.
        """
        self.tokenizer.layout(Clip(1, clip.height, clip.width))
        yield from self.long_video.frames(self._rollout(ids, clip, seeds, prefix, changes, together=1), prefix, None)

    def _rollout(
        self, ids: Tensor, clip: Clip, seeds: Sequence[int], prefix: Tensor | None, changes: Sequence[ConditionChange], together: int
    ) -> _WindowRollout:
        if prefix is not None:
            self.tokenizer.latent_frames(prefix.shape[2], "a prefix")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        upcoming = 0 if prefix is None else prefix.shape[2]
        return _WindowRollout(
            self, sorted([ConditionChange(0, ids), *changes], key=lambda change: change.frame), clip, generators, together, upcoming
        )


@dataclass
class _WindowRollout:
    """Generates the windows of one video; ``upcoming`` is the index of the next video frame."""

    make: Generation
    conditions: list[ConditionChange]
    clip: Clip
    generators: list[torch.Generator]
    together: int
    upcoming: int

    def __call__(self, given: Tensor | None, most: int | None) -> Iterator[Tensor]:
        """See :data:`modules.autoregression.long_video.WindowRollout`."""
        tokenizer, current_ids = self.make.tokenizer, self._ids()
        before = 0 if given is None else given.shape[2]
        end = None if most is None else before + most
        run, state = self._begin(current_ids, end), None
        if given is not None:
            latent = tokenizer.encode_for_tokens(given)
            _, state = self._decode([run.next_frame(frame).complete for frame in latent.unbind(dim=2)], None)
        latents: list[Tensor] = []
        for number in count(tokenizer.latent_frames(before) if before else 0):
            if self._ids() is not current_ids:
                current_ids = self._ids()
                run.set_condition(current_ids)
            latents.append(run.next_frame().complete)
            self.upcoming += tokenizer.shape.temporal_factor if number else 1
            last = end is not None and number + 1 == tokenizer.latent_frames(end)
            if len(latents) == self.together or last:
                video, state = self._decode(latents, state)
                latents = []
                yield video
            if last:
                return

    def _begin(self, ids: Tensor, end: int | None) -> SamplingRun:
        """Start sampling a window, shortened to ``end`` frames; guidance spans its length."""
        frames = min(self.make.long_video.window, end or self.make.long_video.window)
        layout = self.make.tokenizer.layout(Clip(frames, self.clip.height, self.clip.width))
        return SamplingRun(self.make.sampler, self.make.transformer, ids, layout, self.generators, self.make.long_video.sink)

    def _decode(self, latents: list[Tensor], state: DecoderState | None) -> tuple[Tensor, DecoderState]:
        with winograd_convolutions():
            return self.make.tokenizer.decode_chunk(torch.stack(latents, dim=2), state)

    def _ids(self) -> Tensor:
        """Return the condition ids of the next frame."""
        return next(change.ids for change in reversed(self.conditions) if change.frame <= self.upcoming)
