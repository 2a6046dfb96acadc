"""Own clips in about their own shapes: aspect-ratio buckets."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from datamodules.base import Phase
from datamodules.clips.aspect_ratios import Size, lost, nearest_size, published_sizes
from datamodules.clips.dataset import THREADS
from datamodules.clips.manifest import Row
from datamodules.clips.unreadable import read_guarded
from datamodules.clips.video_folder import VideoFolder
from datamodules.decoding.reader import UnreadableVideo, shown_size
from datamodules.jsonl import value_of
from datamodules.loaders.distributed import rank_and_world_size
from datamodules.loaders.sources import DataSource
from modules.geometry import Clip

Buckets = dict[Size, list[Row]]


class VideoBuckets(VideoFolder):
    """A VideoFolder whose training clips come in several sizes, each file in that of the nearest aspect ratio; a batch has one size.

    A size that would not fill one batch of all processes is left out, the emptiest first, and its files go to the nearest other size.
    Which size has which share, and how much of the pictures is cut off, is logged at the start. Held-out clips have the size of ``clip``.

    Every file is opened once at the start and its first frame decoded, as cameras mark rotations there, unless its row in the manifest has
    ``"height"`` and ``"width"``: what the picture measures when it is shown upright.

    Args:
        clip: What a held-out clip measures; its size is one of ``sizes``.
        manifest: Path of the .jsonl file or the folder to train on.
        sizes: Height and width of all sizes. If not given, those of the published pixel budget to which the size of ``clip`` belongs, 15 in
            the ratios 1:1 to 3:1 and 1:3; budgets are 256 x 256, 512 x 512, 768 x 768 and 1024 x 1024.
        settings: The further settings of VideoFolder.

    Raises:
        ValueError: If there are no ``sizes`` or ``clip`` has none of them.
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
        """All sizes that go with that of a clip."""
        sizes = published_sizes(clip) if self.sizes is None else [(height, width) for height, width in self.sizes]
        if (clip.height, clip.width) not in sizes:
            raise ValueError(f"the clip's {clip.height} x {clip.width} pixels must be one of the sizes, got {sizes}")
        return sizes

    @property
    def train_clips(self) -> list[Clip]:
        return [_at(phase.clip, size) for phase in self.phases for size in self.sizes_of(phase.clip)]

    def sources_of(self, phase: Phase) -> list[DataSource]:
        """A stream for every size; their shares are those of their clips."""
        rows = self.train_rows(phase.clip)
        _, world = rank_and_world_size()
        buckets = fill(rows, self._shown, self.sizes_of(phase.clip), phase.batch_size * world)
        rank_zero_info(self._report(buckets, phase.clip))
        sources = []
        for (height, width), own in buckets.items():
            name = ", ".join(filter(None, (phase.name, f"{height} x {width}")))
            dataset = self.train_set(own, _at(phase.clip, (height, width)), of=len(rows))
            sources.append(DataSource(dataset, phase.batch_size, self.seed, name))
        return sources

    @cached_property
    def _shown(self) -> dict[str, Size]:
        """The height and width of every file, by its path as written."""
        with ThreadPoolExecutor(THREADS) as pool:
            sizes = pool.map(partial(_size_of, self.time_limit), self._measured)
            own = (self.clip.height, self.clip.width)
            return {row.written: size or own for row, size in zip(self._measured, sizes, strict=True)}

    def _report(self, buckets: Buckets, clip: Clip) -> str:
        """Shares and losses as a table."""
        losses = {size: [lost(*self._shown[row.written], size) for row in rows] for size, rows in buckets.items()}
        alone = [lost(*self._shown[row.written], (clip.height, clip.width)) for rows in buckets.values() for row in rows]
        clips, total = len(alone), sum(map(sum, losses.values()))
        lines = [
            f"{clips} clips by size: {total / clips:.1%} of their area is cut off; "
            f"with {clip.height} x {clip.width} alone it would be {sum(alone) / clips:.1%}"
        ]
        for (height, width), loss in losses.items():
            lines.append(f"{height:5d} x {width:<5d}{len(loss):9d} clips {len(loss) / clips:7.1%}, cut off {sum(loss) / len(loss):6.1%}")
        return "\n".join(lines)


def fill(rows: Sequence[Row], shown: dict[str, Size], sizes: Sequence[Size], least: int) -> Buckets:
    """Puts every row into the bucket of the nearest size; buckets below ``least`` rows are given up one by one, while there are several.

    Args:
        rows: Rows of a manifest.
        shown: Height and width of every row's picture, by its path as written.
        sizes: Height and width of every bucket.
        least: Rows that a bucket needs.
    """
    buckets: Buckets = {size: [] for size in sizes}
    homeless = rows
    while True:
        kept = tuple(buckets)
        for row in homeless:
            buckets[nearest_size(*shown[row.written], kept)].append(row)
        emptiest = min(kept, key=lambda size: len(buckets[size]))
        if len(kept) == 1 or len(buckets[emptiest]) >= least:
            return buckets
        homeless = buckets.pop(emptiest)


def _at(clip: Clip, size: Size) -> Clip:
    return replace(clip, height=size[0], width=size[1])


def _size_of(seconds: float, row: Row) -> Size | None:
    """Height and width as the row says or the file shows; None if the file cannot be read, which reading its clip will tell."""
    said = [value_of(row.values, key, int, row.place, "a whole number of pixels") for key in ("height", "width")]
    if None not in said:
        if min(said) < 1:
            raise ValueError(f'{row.place}: "height" and "width" must be at least 1, got {said[0]} and {said[1]}')
        return said[0], said[1]
    try:
        return read_guarded(seconds, shown_size, row.path)
    except UnreadableVideo:
        return None
