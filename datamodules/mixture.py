"""Mixture of several data modules, such as images and videos (stages I and II of the paper's section 4)."""

from __future__ import annotations

from collections.abc import Sized
from functools import cached_property
from typing import NoReturn

from datamodules.base import ClipDataModule
from datamodules.latents.base import LatentSource
from datamodules.loaders.sources import DataSource
from modules.geometry import Clip


class Mixture(ClipDataModule):
    """Batches from several data modules in a fixed ratio; every batch is from one of them, the same on all processes.

    Each part keeps its own clip, batch size, seed of the order and ``milestones``. Workers are shared; their number is the largest of
    the parts.

    Args:
        clip: Size of held-out and generated clips, equal to that of the main part.
        parts: Data modules by name. Parts that have classes must have the same ones.
        ratio: Weight of every part, such as ``{video: 3, images: 1}`` for one image batch in four.
        main: Name of the part that provides the validation and test clips.

    Raises:
        ValueError: If the names of ``ratio`` and ``parts`` differ, ``main`` is not a part or has another clip, or a weight is not positive.
    """

    def __init__(self, clip: Clip, *, parts: dict[str, ClipDataModule], ratio: dict[str, float], main: str) -> None:
        if set(parts) != set(ratio):
            raise ValueError(
                f"ratio must have a weight for every part: parts are {', '.join(parts)}, weights are given for {', '.join(ratio)}"
            )
        if main not in parts:
            raise ValueError(f"main must be the name of a part, one of {', '.join(parts)}, got {main!r}")
        if parts[main].clip != clip:
            raise ValueError(f"clip must be that of the main part {main}, {parts[main].clip}; got {clip}")
        for name, weight in ratio.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"ratio: the weight of {name} must be positive, got {weight}")
        # Sorted: the order of the clips depends on the order of the parts, which should not depend on the order in a config file.
        self.parts = {name: parts[name] for name in sorted(parts)}
        self.ratio, self.main = ratio, parts[main]
        workers = max(part.workers for part in parts.values())
        super().__init__(clip, batch_size=self.main.batch_size, workers=workers, seed=self.main.seed)

    def setup(self, stage: str) -> None:
        """Create the data sets of a stage; raises ``ValueError`` if the classes of the parts differ."""
        for part in self.parts.values():
            part.trainer = self.trainer
        super().setup(stage)
        for name, part in self.parts.items() if stage == "fit" else ():
            if (own := part.class_names) and own != self.class_names:
                raise ValueError(f"{name} has the classes {_preview(own)}, another part has {_preview(self.class_names)}")

    def dataset(self, split: str, clip: Clip | None = None) -> Sized:
        """Return the clips of the main part."""
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
        """Raise ``ValueError`` if a part has latents of another tokenizer.

        Args:
            found: Hashes of the model's tokenizer.
            source: File of its weights.
        """
        for part in self.parts.values():
            if isinstance(part, LatentSource | Mixture) and part.encoded:
                part.check_tokenizer(found, source)

    def predict_dataloader(self) -> NoReturn:
        """Raise ``ValueError``: every part is encoded into its own folder."""
        raise ValueError(f"encode the parts {', '.join(self.parts)} one by one, each into a separate folder")

    def sources(self) -> list[DataSource]:
        return self._all_sources

    def weights(self, step: int) -> list[float]:
        total = sum(self.ratio.values())
        return [self.ratio[name] / total * weight for name, part in self.parts.items() for weight in part.weights(step)]

    @cached_property
    def _all_sources(self) -> list[DataSource]:
        named = [(name, source) for name, part in self.parts.items() for source in part.sources()]
        return [source._replace(name=", ".join(filter(None, (name, source.name)))) for name, source in named]


def _preview(names: list[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} ({len(names)})"
