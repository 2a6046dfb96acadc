"""Batch types passed from the data modules to the models: training clips, generation requests and chunks of video files."""

from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from modules.storage.latents.header import Shard


class VideoBatch(TypedDict):
    """Batch of a training, validation or test data loader.

    ``video`` is ``(B, 3, T, H, W)`` RGB, uint8 0..255 (or float -1..1); ``label`` is ``(B,)`` int64, -1 for clips without a class;
    ``caption`` holds one text per clip ("" if it has none); ``index`` is ``(B,)`` int64, the clip's number. In training, equal numbers
    mean the same clip at the same size. Sizes may differ between batches.
    """

    video: Tensor
    label: Tensor
    caption: list[str]
    index: Tensor


class LatentBatch(TypedDict):
    """Batch of a data loader over a latent cache; replaces ``VideoBatch``.

    ``latent`` is ``(B, d, t, h, w)``, the tokenizer's continuous latents as stored; the other entries are those of ``VideoBatch``.
    """

    latent: Tensor
    label: Tensor
    caption: list[str]
    index: Tensor


class EncodingBatch(VideoBatch):
    """Batch of the predict data loader over clips: clips to encode, all of one shard of a cache.

    Shards follow one another, with the clips of each shard in order; ``last`` marks the final batch of a shard.
    """

    shard: Shard
    last: bool


class Requests(TypedDict):
    """Batch of a predict data loader over prompts: clips to generate, all of one length.

    ``condition`` holds a class name or a text per clip; ``then``, per clip, the later conditions that replace it, in order, each with its
    time in seconds; ``seed`` a seed per clip; ``name`` a file stem per clip, optionally with a folder ("scene/alley-0"); ``frames`` the
    number of video frames of the result, including the prefix; ``height``, ``width`` (pixels) and ``fps`` its size and rate.
    ``asked`` holds, per clip and as plain values, everything that determines the result apart from the model and its sampling settings.
    ``prefix`` is ``(B, 3, P, H, W)`` uint8: frames to continue from.
    """

    condition: list[str]
    then: list[list[tuple[float, str]]]
    seed: list[int]
    name: list[str]
    asked: list[dict[str, Any]]
    frames: int
    height: int
    width: int
    fps: float
    prefix: NotRequired[Tensor]


@runtime_checkable
class KeepsClips(Protocol):
    """Callback that keeps clips of earlier runs."""

    def has_clip(self, name: str, asked: dict[str, Any]) -> bool:
        """True if a clip of that name exists, made with the same weights, settings and ``asked`` (see :class:`Requests`)."""
        ...


class FileChunk(TypedDict):
    """Batch of a predict data loader over video files: consecutive frames of one file; a file starts only after the previous one ended.

    ``video`` is ``(1, 3, T, H, W)`` uint8, 0..255, RGB, upright, at the file's own size, which is the same in all its chunks; ``T`` is at
    least 1 and equal in all chunks except the last. ``file`` is the path as given, ``name`` the stem of the output file, ``fps`` its
    frames per second. ``first`` and ``last`` mark the first and last chunk of the file.
    """

    video: Tensor
    file: str
    name: str
    fps: float
    first: bool
    last: bool
