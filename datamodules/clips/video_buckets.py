"""Aspect-ratio buckets: training clips of several sizes, one size per batch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from datamodules.base import Phase
from datamodules.clips.aspect_ratios import Size, cropped_fraction, nearest_size, published_sizes
from datamodules.clips.dataset import THREADS
from datamodules.clips.manifest import ClipRecord
from datamodules.clips.video_folder import VideoFolder
from datamodules.decoding.reader import UnreadableVideo, display_size
from datamodules.jsonl import value_of
from datamodules.loaders.distributed import rank_and_world_size
from datamodules.loaders.sources import DataSource
from modules.geometry import Clip

Buckets = dict[Size, list[ClipRecord]]


class VideoBuckets(VideoFolder):
    """A VideoFolder with training clips of several sizes, each file in the size of the nearest aspect ratio; a batch has one size.

    A size that would not fill one batch of all processes is dropped, the smallest bucket first, and its files go to the nearest remaining
    size. The fraction of clips per size and the cropped area are logged at the start. Held-out clips have the size of ``clip``.

    The first frame of every file is decoded at the start, because it carries the rotation, unless its line in the manifest has
    ``"height"`` and ``"width"``: the size after rotation.

    Args:
        clip: Number, rate and size of the frames of a held-out clip; its size is one of ``sizes``.
        manifest: Path of the .jsonl file or folder of training clips.
        sizes: Height and width of all sizes. If not given, those of the published pixel budget to which the size of ``clip`` belongs, 15 in
            the ratios 1:1 to 3:1 and 1:3; budgets are 256 x 256, 512 x 512, 768 x 768 and 1024 x 1024.
        settings: Further arguments of VideoFolder.

    Raises:
        ValueError: If the size of ``clip`` is not among ``sizes``, or not a published one without ``sizes``.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        manifest: str,
        sizes: list[tuple[int, int]] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(clip, manifest=manifest, **settings)
        self.sizes = sizes
        for phase in self.phases:
            self.sizes_of(phase.clip)

    def sizes_of(self, clip: Clip) -> list[Size]:
        """Return the sizes of the buckets for a clip."""
        sizes = published_sizes(clip) if self.sizes is None else [(height, width) for height, width in self.sizes]
        if (clip.height, clip.width) not in sizes:
            raise ValueError(f"the clip's {clip.height} x {clip.width} pixels must be one of the sizes, got {sizes}")
        return sizes

    @property
    def train_clips(self) -> list[Clip]:
        return [_at(phase.clip, size) for phase in self.phases for size in self.sizes_of(phase.clip)]

    def sources_of(self, phase: Phase) -> list[DataSource]:
        """Return a source per size, weighted by its number of clips."""
        records = self.train_records(phase.clip)
        _, world = rank_and_world_size()
        buckets = fill_buckets(records, self._display_sizes, self.sizes_of(phase.clip), phase.batch_size * world)
        rank_zero_info(self._report(buckets, phase.clip))
        sources = []
        for (height, width), own in buckets.items():
            name = ", ".join(filter(None, (phase.name, f"{height} x {width}")))
            dataset = self.train_set(own, _at(phase.clip, (height, width)), total=len(records))
            sources.append(DataSource(dataset, phase.batch_size, self.seed, name))
        return sources

    @cached_property
    def _display_sizes(self) -> dict[str, Size]:
        """Height and width of every file after rotation, by its listed path."""
        with ThreadPoolExecutor(THREADS) as pool:
            sizes = pool.map(partial(_size_of, self.time_limit), self._measured)
            own = (self.clip.height, self.clip.width)
            return {record.listed_path: size or own for record, size in zip(self._measured, sizes, strict=True)}

    def _report(self, buckets: Buckets, clip: Clip) -> str:
        """Return a table of the fraction of clips and the cropped area per size."""
        losses = {
            size: [cropped_fraction(*self._display_sizes[record.listed_path], size) for record in records]
            for size, records in buckets.items()
        }
        alone = [
            cropped_fraction(*self._display_sizes[record.listed_path], (clip.height, clip.width))
            for records in buckets.values()
            for record in records
        ]
        clips, total = len(alone), sum(map(sum, losses.values()))
        lines = [
            f"{clips} clips by size: {total / clips:.1%} of their area is cropped; "
            f"with {clip.height} x {clip.width} alone: {sum(alone) / clips:.1%}"
        ]
        for (height, width), loss in losses.items():
            lines.append(f"{height:5d} x {width:<5d}{len(loss):9d} clips {len(loss) / clips:7.1%}, cropped {sum(loss) / len(loss):6.1%}")
        return "\n".join(lines)


def fill_buckets(records: Sequence[ClipRecord], display_sizes: dict[str, Size], sizes: Sequence[Size], min_clips: int) -> Buckets:
    """Assign every record to the bucket of the nearest size; drop buckets below ``min_clips`` one by one, smallest first, but not the last.

    Args:
        records: Records of a manifest.
        display_sizes: Height and width of every file, by its listed path.
        sizes: Height and width of every bucket.
        min_clips: Clips that a bucket needs.
    """
    buckets: Buckets = {size: [] for size in sizes}
    unassigned = records
    while True:
        kept = tuple(buckets)
        for record in unassigned:
            buckets[nearest_size(*display_sizes[record.listed_path], kept)].append(record)
        smallest = min(kept, key=lambda size: len(buckets[size]))
        if len(kept) == 1 or len(buckets[smallest]) >= min_clips:
            return buckets
        unassigned = buckets.pop(smallest)


def _at(clip: Clip, size: Size) -> Clip:
    return replace(clip, height=size[0], width=size[1])


def _size_of(seconds: float, record: ClipRecord) -> Size | None:
    """Return height and width from the record or the file; None if it is unreadable, which is reported when its clip is read."""
    given = [value_of(record.values, key, int, record.location, "a whole number of pixels") for key in ("height", "width")]
    if None not in given:
        if min(given) < 1:
            raise ValueError(f'{record.location}: "height" and "width" must be at least 1, got {given[0]} and {given[1]}')
        return given[0], given[1]
    try:
        return display_size(record.path, seconds)
    except UnreadableVideo:
        return None
