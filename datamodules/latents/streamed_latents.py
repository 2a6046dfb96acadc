"""Latents streamed from object storage."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch.utils.data import Dataset

from datamodules.base import collate
from datamodules.latents.base import LatentSource, latent_frames
from datamodules.latents.litdata_format import CheckClip, litdata, open_stream, read_header
from modules.batch import LatentBatch
from modules.geometry import Clip
from modules.storage.latents import CacheHeader


class StreamedLatents(LatentSource):
    """Latents that ``python -m scripts.stream_latents`` wrote, from a folder or from object storage such as ``s3://bucket/latents``.

    See :class:`datamodules.latents.base.LatentSource`. Needs LitData, ``pip install -e '.[stream]'``, which prefetches chunks and shuffles
    them and the clips within. The order depends on seed, processes, workers and batch size. Resuming with the same values is exact; with
    others each clip of the epoch still comes once. Clips that do not fill a batch of every process are dropped from an epoch.

    Args:
        clip: Size of a clip: height, width and rate as encoded, and at most as many frames.
        folder: Folder or URL of the latents.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        folder: str,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(clip, folder=folder, batch_size=batch_size, workers=workers, seed=seed)

    @cached_property
    def header(self) -> CacheHeader:  # type: ignore[override]
        return read_header(self.folder)

    def setup(self, stage: str) -> None:
        _ = self.frames
        for split in self.header.splits:
            open_stream(self.folder, split)

    def sources(self) -> NoReturn:
        """Raise ``ValueError``: LitData determines the order."""
        raise ValueError(f"{self.folder} is a stream with its own order, which cannot be mixed with others: use datamodules.CachedLatents")

    def dataset(self, split: str, clip: Clip | None = None) -> StreamedClips:
        """Return the latents of "train", "val" or "test" for random access."""
        stored = self.header.same.get(split, split)
        length = self.header.splits.get(stored, 0)
        return StreamedClips(self._open(stored, clip) if length else None, length)

    def train_dataloader(self) -> StreamLoader:  # type: ignore[override]
        """Return the shuffled, resumable loader; raises ``ValueError`` if the clips do not fill one batch of all processes."""
        stream = self._open("train", self.clip, shuffle=True, seed=self.seed, drop_last=True)
        loader = StreamLoader(stream, self.batch_size, self.workers)
        if self._restored:
            loader.load_state_dict(self._restored)
            self._restored = {}
        self._train_loader = loader  # type: ignore[assignment]
        return loader

    def _open(self, split: str, clip: Clip | None, **settings: Any) -> Any:
        frames = latent_frames(self.header, clip or self.clip, self.folder)
        return open_stream(self.folder, split, transform=CheckClip(f"{self.folder}/{split}", frames), **settings)


class StreamLoader:
    """LitData's loader, whose state counts the batches that were yielded.

    Wrapped because in distributed runs Lightning replaces the sampler of every ``DataLoader`` that it finds.
    """

    def __init__(self, stream: Any, batch_size: int, workers: int) -> None:
        self._loader = litdata().StreamingDataLoader(
            stream,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=collate,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
            # Every pass draws a base seed. Drawn from the global generator it would change the noise of a resumed run.
            generator=torch.Generator(),
        )
        if not len(self):
            raise ValueError(f"the training clips of the stream do not fill one batch of {batch_size} for every process")

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[LatentBatch]:
        return iter(self._loader)

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a position; raises ``ValueError`` if the state is not LitData's."""
        if "dataset" not in state:
            raise ValueError("the checkpoint was made with other data than a stream: continue with it, or start a new run with --init_from")
        self._loader.load_state_dict(state)


class StreamedClips(Dataset):
    """One split of a stream, fetched chunk by chunk.

    Args:
        stream: LitData's data set; None for an empty split.
        length: Number of clips of all processes.
    """

    def __init__(self, stream: Any, length: int) -> None:
        self.stream, self.length = stream, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"index must be in 0..{self.length - 1}, got {index}")
        return self.stream[index]
