"""Clips as latents that come from far away."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NoReturn

import torch
from torch.utils.data import Dataset

from datamodules.base import collate
from datamodules.latents.base import LatentSource, latent_frames
from datamodules.latents.litdata_format import CheckClip, litdata, open_stream, read_plan
from modules.batch import LatentBatch
from modules.geometry import Clip
from modules.storage.latents import CachePlan


class StreamedLatents(LatentSource):
    """Latents that ``python -m scripts.stream_latents`` wrote, from a folder or from object storage, such as ``s3://bucket/latents``.

    See :class:`datamodules.latents.base.LatentSource`. Needs LitData, ``pip install -e '.[stream]'``, which brings the chunks that are
    read next and shuffles them and what is in them. The order is LitData's: fixed by seed, processes, workers and batch size, and exact
    after a resume with the same ones; with others each clip of the epoch still comes once. What does not fill a batch of every process
    is left out of an epoch.

    Args:
        clip: What a clip measures: size and rate as encoded, and at most as many frames.
        folder: Where the latents are.
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
    def plan(self) -> CachePlan:  # type: ignore[override]
        return read_plan(self.folder)

    def setup(self, stage: str) -> None:
        _ = self.frames
        for split in self.plan.splits:
            open_stream(self.folder, split)

    def streams(self) -> NoReturn:
        """Raises ``ValueError``, as the order of a stream is LitData's."""
        raise ValueError(f"{self.folder} is a stream with an order of its own, which is no part of others: use datamodules.CachedLatents")

    def dataset(self, split: str, clip: Clip | None = None) -> StreamedClips:
        """The latents of "train", "val" or "test", to be read at any place."""
        stored = self.plan.same.get(split, split)
        length = self.plan.splits.get(stored, 0)
        return StreamedClips(self._open(stored, clip) if length else None, length)

    def train_dataloader(self) -> StreamLoader:  # type: ignore[override]
        """Shuffled and exact after a resume; raises ``ValueError`` if the clips do not fill one batch of all processes."""
        stream = self._open("train", self.clip, shuffle=True, seed=self.seed, drop_last=True)
        loader = StreamLoader(stream, self.batch_size, self.workers)
        if self._restored:
            loader.load_state_dict(self._restored)
            self._restored = {}
        self._train_loader = loader  # type: ignore[assignment]
        return loader

    def _open(self, split: str, clip: Clip | None, **settings: Any) -> Any:
        frames = latent_frames(self.plan, clip or self.clip, self.folder)
        return open_stream(self.folder, split, transform=CheckClip(f"{self.folder}/{split}", frames), **settings)


class StreamLoader:
    """LitData's loader, whose state is that of the batches that were handed out.

    Wrapped, as Lightning changes every ``DataLoader`` that it finds in a run with several processes.
    """

    def __init__(self, stream: Any, batch_size: int, workers: int) -> None:
        self._loader = litdata().StreamingDataLoader(
            stream,
            batch_size=batch_size,
            num_workers=workers,
            collate_fn=collate,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
            # A pass draws from this generator when it begins. The global one must not notice, or a resumed run would draw other noise.
            generator=torch.Generator(),
        )
        if not len(self):
            raise ValueError(f"the training clips of the stream do not fill one batch of {batch_size} for every process")

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[LatentBatch]:
        return iter(self._loader)

    def state_dict(self) -> dict[str, Any]:
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises ``ValueError`` if the state is that of another loader than LitData's."""
        if "dataset" not in state:
            raise ValueError("the checkpoint was made with data that was no stream: go on with that, or begin a new run with --init_from")
        self._loader.load_state_dict(state)


class StreamedClips(Dataset):
    """One split of a stream; a chunk that is needed and not there is fetched.

    Args:
        stream: LitData's data set; none for a split without clips.
        length: Clips of all processes together.
    """

    def __init__(self, stream: Any, length: int) -> None:
        self.stream, self.length = stream, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"there are the clips 0..{self.length - 1}, got {index}")
        return self.stream[index]
