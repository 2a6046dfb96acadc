"""Base class of the data modules of latents."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, replace
from typing import NoReturn

from datamodules.base import ClipDataModule, StageOverride
from modules.geometry import Clip
from modules.storage.latents import CacheHeader


class LatentSource(ClipDataModule):
    """Batches of latents instead of videos.

    Splits, classes and captions are those of the encoded data set. Clips may be shorter than the encoded ones: the tokenizer is causal,
    so the first latent frames of a clip are the latents of its first frames.

    Args:
        clip: Size of a clip: height, width and rate as encoded, and at most as many frames.
        folder: Folder or URL of the latents.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order.
        milestones: Length of the training clips before a step, by step; size and rate cannot change.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        folder: str,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
        milestones: dict[int, StageOverride] | None = None,
    ) -> None:
        super().__init__(clip, batch_size=batch_size, workers=workers, seed=seed, milestones=milestones)
        self.folder = folder

    @property
    @abstractmethod
    def header(self) -> CacheHeader:
        """Header of the cache that was encoded."""

    def setup(self, stage: str) -> None:
        """Open the latents; raises ``ValueError`` if they are missing, incomplete, damaged or of other clips."""
        _ = self.frames
        super().setup(stage)

    @property
    def encoded(self) -> bool:
        return True

    @property
    def frames(self) -> int:
        """Latent frames of a clip."""
        return latent_frames(self.header, self.clip, self.folder)

    def check_tokenizer(self, found: dict[str, str], source: str | None) -> None:
        """Raise ``ValueError`` if the latents are of another tokenizer than that of the hashes ``found`` and weights ``source``."""
        self.header.check_tokenizer(found, source, self.folder)

    def predict_dataloader(self) -> NoReturn:
        """Raise ``ValueError``: there are no videos to encode."""
        raise ValueError(f"the clips in {self.folder} are already encoded")

    @property
    def class_names(self) -> list[str]:
        return self.header.class_names

    @property
    def captions(self) -> list[str]:
        return self.header.captions


def latent_frames(header: CacheHeader, clip: Clip, folder: str) -> int:
    """Return the number of latent frames of a clip that is cut from the encoded ones.

    Args:
        header: Header of the cache.
        clip: Size of the wanted clip.
        folder: Location of the latents, for messages.

    Raises:
        ValueError: If the encoded clips are shorter or of another size or rate.
    """
    factor, later = header.temporal_factor, clip.frames - 1
    if replace(clip, frames=header.clip.frames) != header.clip or clip.frames > header.clip.frames or later % factor:
        wanted, found = (", ".join(f"{name} {value:g}" for name, value in asdict(one).items()) for one in (clip, header.clip))
        raise ValueError(f"{folder} has latents of clips with {found}; requested {wanted} (1 + {factor} * n frames, at most as encoded)")
    return 1 + later // factor
