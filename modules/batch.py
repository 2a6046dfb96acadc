"""The contracts between the data modules and the models: clips to learn from, clips to make, video files piece by piece."""

from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from modules.storage.latents.header import Shard


class VideoBatch(TypedDict):
    """What every training, validation and test data loader yields.

    ``video`` is ``(B, 3, T, H, W)`` RGB, uint8 0..255 (or float -1..1); ``label`` is ``(B,)`` int64, -1 where a clip has no
    class; ``caption`` holds one text per clip ("" where there is none); ``index`` is ``(B,)`` int64, the clip's number: in training,
    equal numbers mean the same clip at the same size, and other batches may have other sizes.
    """

    video: Tensor
    label: Tensor
    caption: list[str]
    index: Tensor


class LatentBatch(TypedDict):
    """What data loaders over a cache of latents yield in place of a ``VideoBatch``.

    ``latent`` is ``(B, d, t, h, w)``, the tokenizer's continuous latents as they are stored; the others are as in a ``VideoBatch``.
    """

    latent: Tensor
    label: Tensor
    caption: list[str]
    index: Tensor


class EncodingBatch(VideoBatch):
    """What the predict data loader over clips yields: clips to encode, all of one shard of a cache.

    Shards come one after the other, the clips of a shard in their order, and ``last`` marks the batch with which a shard ends.
    """

    shard: Shard
    last: bool


class Requests(TypedDict):
    """What a predict data loader yields: clips to generate, all of one length.

    ``condition`` holds a class name or a text per clip; ``then`` per clip the conditions that replace it later on, each with its second,
    in order; ``seed`` a seed per clip; ``name`` a file stem per clip, with a folder before it or without ("scene/alley-0"); ``frames`` the
    number of video frames to make, those of the prefix included; ``height``, ``width`` (pixels) and ``fps`` the size of the result.
    ``asked`` says per clip, in plain values, all that decides what it becomes besides the model and how that samples. ``prefix`` is
    ``(B, 3, P, H, W)`` uint8: frames to continue from.
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
    """A callback that keeps clips of earlier runs."""

    def has_clip(self, name: str, asked: dict[str, Any]) -> bool:
        """Whether the clip of that name is there, made by the same weights in the same way from the same ``asked`` of :class:`Requests`."""
        ...


class FileChunk(TypedDict):
    """What a predict data loader over video files yields: some frames of one file, in order; no file begins before the last one ended.

    ``video`` is ``(1, 3, T, H, W)`` uint8, 0..255, RGB, upright, at the file's own size, which all chunks of a file share; ``T`` is at
    least 1 and the same but in the last chunk. ``file`` is the path as it was given, ``name`` the stem of what is made of it, ``fps`` its
    frames per second. ``first`` and ``last`` mark the chunks with which the file begins and ends.
    """

    video: Tensor
    file: str
    name: str
    fps: float
    first: bool
    last: bool
