"""Clips to generate for a user's prompts."""

from __future__ import annotations

from datamodules.predict.base import RequestedClips
from datamodules.predict.prompt_files import Defaults, Request, Start, checked_start, make_requests
from modules.geometry import Clip


class Prompts(RequestedClips):
    """Clips to generate with ``predict``.

    Lines of a .txt file are conditions. Lines of a .jsonl file are ``{"condition": "a text or a class name"}`` with any of "seed",
    "frames", "name", "prefix" (a video or image to continue, relative to the file), "prefix_frames" and "prefix_start", which override
    the arguments below, and "then" (``[[4.0, "another"], [8.0, "a third"]]``: conditions that replace the first one at these seconds). A
    .csv file has a column for each of these except "then"; its first line names them, and empty cells count as missing. Clips with equal
    numbers of frames and of prefix frames share batches. After ``setup``, ``requests`` lists all clips.

    Args:
        prompts: Path of a .txt, .csv or .jsonl file, or a list of conditions.
        clip: Size of a clip. Prefixes are read at its size and rate.
        batch_size: Clips per process and step.
        seed: Clip ``n`` gets seed ``seed + n``. The samples of a prompt with its own seed count on from that.
        samples: Clips per prompt.
        prefix: Video or image that every clip continues.
        prefix_frames: Number of frames to take from a prefix.
        prefix_start: Time in seconds at which these frames begin; "last" for the last ones, to continue from the end.

    Raises:
        ValueError: If a number is too small.
    """

    def __init__(
        self,
        prompts: str | list[str],
        *,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        batch_size: int = 8,
        seed: int = 0,
        samples: int = 1,
        prefix: str | None = None,
        prefix_frames: int = 1,
        prefix_start: Start = 0.0,
    ) -> None:
        super().__init__(clip, batch_size)
        if min(samples, prefix_frames) < 1 or seed < 0:
            numbers = f"samples {samples}, prefix_frames {prefix_frames} and seed {seed}"
            raise ValueError(f"samples and prefix_frames must be at least 1 and seed at least 0, got {numbers}")
        start = checked_start(prefix_start, "prefix_start")
        self.prompts = prompts
        self.defaults = Defaults(clip.frames, seed, samples, prefix, prefix_frames, start, clip.fps)

    def make_requests(self) -> list[Request]:
        return make_requests(self.prompts, self.defaults)
