"""Several sources at once, such as pictures and video (stages I and II of the paper's section 4)."""

from __future__ import annotations

from collections.abc import Sized
from functools import cached_property
from typing import NoReturn

from datamodules.base import ClipDataModule
from datamodules.latents.base import LatentSource
from datamodules.loaders.sources import Stream
from modules.geometry import Clip


class Mixture(ClipDataModule):
    """Batches from several data modules in a stated ratio; every batch, on all processes, is from one of them.

    Each part keeps its own clip, batch size, seed of the order and ``milestones``. All share the largest of their numbers of workers.

    Args:
        clip: What held-out and generated clips measure: those of the main part.
        parts: Data modules by name. Those whose clips have classes have the same.
        ratio: Share of the batches by name, such as ``{video: 3, images: 1}`` for a picture batch in every four.
        main: Name of the part whose held-out clips are validated and tested.

    Raises:
        ValueError: If ``ratio`` does not fit ``parts``, there is no part ``main`` or its clip is another, or a share is not positive.
    """

    def __init__(self, clip: Clip, *, parts: dict[str, ClipDataModule], ratio: dict[str, float], main: str) -> None:
        if set(parts) != set(ratio):
            raise ValueError(f"ratio must give every part a share: parts are {', '.join(parts)}, shares are given to {', '.join(ratio)}")
        if main not in parts:
            raise ValueError(f"main must be the name of a part, one of {', '.join(parts)}, got {main!r}")
        if parts[main].clip != clip:
            raise ValueError(f"clip must be that of the main part {main}, {parts[main].clip}; got {clip}")
        for name, share in ratio.items():
            if not 0 < share < float("inf"):
                raise ValueError(f"ratio: the share of {name} must be positive, got {share}")
        # In an order that no file of settings can change, as the order of the clips goes by it.
        self.parts = {name: parts[name] for name in sorted(parts)}
        self.ratio, self.main = ratio, parts[main]
        workers = max(part.workers for part in parts.values())
        super().__init__(clip, batch_size=self.main.batch_size, workers=workers, seed=self.main.seed)

    def setup(self, stage: str) -> None:
        """Makes the data sets of a stage; raises ``ValueError`` if classes differ from part to part."""
        for part in self.parts.values():
            part.trainer = self.trainer
        super().setup(stage)
        for name, part in self.parts.items() if stage == "fit" else ():
            if (own := part.class_names) and own != self.class_names:
                raise ValueError(f"{name} has the classes {_some(own)}, another part has {_some(self.class_names)}")

    def dataset(self, split: str, clip: Clip | None = None) -> Sized:
        """The clips of the main part."""
        return self.main.dataset(split, clip)

    def reference(self, split: str) -> Sized:
        return self.main.reference(split)

    @property
    def class_names(self) -> list[str]:
        sources = (self.main, *self.parts.values())
        return next((source.class_names for source in sources if source.class_names), [])

    @property
    def captions(self) -> list[str]:
        return sorted({caption for part in self.parts.values() for caption in part.captions})

    @property
    def train_clips(self) -> list[Clip]:
        return [clip for part in self.parts.values() for clip in part.train_clips]

    @property
    def changing(self) -> bool:
        return any(part.changing for part in self.parts.values())

    @property
    def encoded(self) -> bool:
        return any(part.encoded for part in self.parts.values())

    def check_tokenizer(self, found: dict[str, str], source: str | None) -> None:
        """Raises ``ValueError`` if latents of a part are not of the tokenizer with these hashes, whose weights came from ``source``."""
        for part in self.parts.values():
            if isinstance(part, LatentSource | Mixture) and part.encoded:
                part.check_tokenizer(found, source)

    def predict_dataloader(self) -> NoReturn:
        """Raises ``ValueError``, as every part makes a folder of latents of its own."""
        raise ValueError(f"encode the parts {', '.join(self.parts)} one by one, each in a folder of its own")

    def streams(self) -> list[Stream]:
        return self._all_streams

    def shares(self, step: int) -> list[float]:
        total = sum(self.ratio.values())
        return [self.ratio[name] / total * share for name, part in self.parts.items() for share in part.shares(step)]

    @cached_property
    def _all_streams(self) -> list[Stream]:
        named = [(name, stream) for name, part in self.parts.items() for stream in part.streams()]
        return [stream._replace(name=", ".join(filter(None, (name, stream.name)))) for name, stream in named]


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} ({len(names)})"
