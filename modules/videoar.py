"""Python interface of a trained model: whole videos, or a stream of frames."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modules.autoregression import Generation
from modules.autoregression.generation import ConditionChange
from modules.geometry import Clip
from modules.pixels import to_uint8, to_unit


class VideoAR:
    """Video generator for use from Python; :func:`modules.load` returns one.

    Args:
        generation: Tokenizer, transformer, ``sampler`` and ``long_video``; the last two may be replaced (``dataclasses.replace``).
        clip: Default length, size and frame rate of the videos.
    """

    def __init__(self, generation: Generation, clip: Clip) -> None:
        self.generation, self.clip = generation, clip

    def generate(
        self,
        condition: str | Sequence[str],
        frames: int | None = None,
        seed: int = 0,
        prefix: Tensor | None = None,
        then: Sequence[tuple[float, Sequence[str]]] = (),
    ) -> Tensor:
        """Generate one video per condition.

        Args:
            condition: A class name or a text, or several.
            frames: Length of the result, ``1 + 4 n``; by default that of the training clips.
            seed: Video ``n`` gets ``seed + n``; the result does not depend on the other videos of the call.
            prefix: ``(3, F, H, W)`` or ``(B, 3, F, H, W)`` uint8, frames to continue. :func:`datamodules.decoding.reader.read_clip`
                reads them from a file, scaled and cropped to the size that the model was trained on.
            then: Later conditions that replace the first ones, each with its time in seconds.

        Returns:
            ``(B, 3, T, H, W)`` uint8, starting with the prefix.

        Raises:
            ValueError: For an unknown class, or a length or size that the model cannot generate.
        """
        ids, changes, given = self._asked(condition, then, prefix)
        clip = replace(self._size(given), frames=frames or self.clip.frames)
        return to_uint8(self.generation(ids, clip, self._seeds(seed, ids), given, changes))

    def stream(
        self, condition: str | Sequence[str], seed: int = 0, prefix: Tensor | None = None, then: Sequence[tuple[float, Sequence[str]]] = ()
    ) -> Iterator[Tensor]:
        """Generate the same videos without an end, yielding frames as they are decoded; memory use is constant.

        Yields:
            ``(B, 3, n, H, W)`` uint8, the next frames after the prefix: the frames of one latent frame, a single one at the very start.
        """
        ids, changes, given = self._asked(condition, then, prefix)
        for piece in self.generation.stream(ids, self._size(given), self._seeds(seed, ids), given, changes):
            yield to_uint8(piece)

    def _asked(
        self, condition: str | Sequence[str], then: Sequence[tuple[float, Sequence[str]]], prefix: Tensor | None
    ) -> tuple[Tensor, list[ConditionChange], Tensor | None]:
        ids = self._ids([condition] if isinstance(condition, str) else condition)
        changes = [ConditionChange(round(second * self.clip.fps), self._ids(texts).expand(len(ids), -1)) for second, texts in then]
        return ids, changes, None if prefix is None else self._given(prefix, len(ids))

    def _ids(self, texts: Sequence[str]) -> Tensor:
        condition = self.generation.transformer.condition
        return condition.of_texts(texts).to(next(condition.parameters()).device)

    def _given(self, prefix: Tensor, clips: int) -> Tensor:
        """Return the prefix in [-1, 1]; a single one is repeated for every clip."""
        if (
            prefix.dtype != torch.uint8
            or prefix.ndim not in (4, 5)
            or prefix.shape[-4] != 3
            or (prefix.ndim == 5 and len(prefix) not in (1, clips))
        ):
            found = f"{str(prefix.dtype).removeprefix('torch.')} {tuple(prefix.shape)}"
            raise ValueError(f"a prefix must be uint8 (3, F, H, W), or ({clips}, 3, F, H, W), got {found}")
        whole = prefix if prefix.ndim == 5 else prefix[None]
        device = next(self.generation.transformer.parameters()).device
        return to_unit(whole.to(device)).expand(clips, -1, -1, -1, -1)

    def _size(self, given: Tensor | None) -> Clip:
        """Return the clip, with the height and width of the prefix if there is one."""
        if given is None:
            return self.clip
        clip = replace(self.clip, height=given.shape[3], width=given.shape[4])
        if clip != self.clip:
            sizes = [f"{size.height} x {size.width}" for size in (clip, self.clip)]
            warnings.warn(f"the video has the prefix's size of {sizes[0]} pixels; the model was trained on {sizes[1]}", stacklevel=3)
        return clip

    @staticmethod
    def _seeds(seed: int, ids: Tensor) -> list[int]:
        return [seed + number for number in range(len(ids))]
