"""Generation requests: checks before the first clip is generated, and the videos of a batch of requests."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from modules.autoregression import Generation
from modules.autoregression.generation import ConditionChange, merge_condition_changes
from modules.batch import Requests
from modules.geometry import Clip
from modules.pixels import to_uint8, to_unit


def check_requests(requests: Iterable[Any], generation: Generation, clip: Clip) -> None:
    """Check conditions, lengths and prefixes of all requests; warnings begin with the file and line of the request.

    Args:
        requests: Requests of a predict datamodule.
        generation: The generator.
        clip: Size of the results.

    Raises:
        ValueError: For the first invalid request, with its file and line.
    """
    for request in requests:
        try:
            generation.tokenizer.layout(replace(clip, frames=request.frames))
            generation.tokenizer.latent_frames(request.prefix_frames or 1, "a prefix")
            with _warnings_with(request.location):
                generation.transformer.condition.of_texts([request.condition, *(text for _, text in request.then)])
            generation.check_encoder(request.frames, request.prefix is not None)
        except ValueError as error:
            raise ValueError(f"{request.location}: {error}") from error


def generate_requests(batch: Requests, generation: Generation, device: torch.device) -> Tensor:
    """Generate the clips of a batch, ``(B, 3, frames, height, width)`` uint8, without the warnings of :func:`check_requests`."""

    def ids_of(texts: Sequence[str]) -> Tensor:
        with warnings.catch_warnings(action="ignore"):
            return generation.transformer.condition.of_texts(texts).to(device)

    ids = ids_of(batch["condition"])
    prefix = to_unit(batch["prefix"]) if "prefix" in batch else None
    clip = Clip(batch["frames"], batch["height"], batch["width"], batch["fps"])
    merged = merge_condition_changes(batch["condition"], batch["then"], clip.fps)
    changes = [ConditionChange(frame, ids_of(texts)) for frame, texts in merged]
    return to_uint8(generation(ids, clip, batch["seed"], prefix, changes))


@contextmanager
def _warnings_with(location: str) -> Iterator[None]:
    """Issue the warnings of the context at its end, with the location before their text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        rank_zero_warn(f"{location}: {warning.message}")
