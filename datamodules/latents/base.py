"""What sources of latents have in common: they stand for the clips that were encoded."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, replace
from typing import NoReturn

from datamodules.base import ClipDataModule, StageOverride
from modules.geometry import Clip
from modules.storage.latents import CachePlan


class LatentSource(ClipDataModule):
    """Batches of latents, in place of the clips that a tokenizer made them of.

    Splits, classes and captions are those of the data set that was encoded. Clips may be shorter than those: as the tokenizer is causal,
    the first latent frames of a clip are the latents of its first frames.

    Args:
        clip: What a clip measures: size and rate as encoded, and at most as many frames.
        folder: Where the latents are.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the order.
        milestones: What training clips measure before a step, by the step; they may only be shorter.
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
    def plan(self) -> CachePlan:
        """What was encoded, and how."""

    def setup(self, stage: str) -> None:
        """Raises ``ValueError`` if the latents are missing, incomplete, damaged or of other clips."""
        _ = self.frames
        super().setup(stage)

    @property
    def encoded(self) -> bool:
        return True

    @property
    def frames(self) -> int:
        """Latent frames of a clip."""
        return latent_frames(self.plan, self.clip, self.folder)

    def check_tokenizer(self, found: dict[str, str], source: str | None) -> None:
        """Raises ``ValueError`` if the latents are not of the tokenizer with these hashes, whose weights came from ``source``."""
        self.plan.check_tokenizer(found, source, self.folder)

    def predict_dataloader(self) -> NoReturn:
        """Raises ``ValueError``."""
        raise ValueError(f"the clips in {self.folder} are encoded already")

    @property
    def class_names(self) -> list[str]:
        return self.plan.class_names

    @property
    def captions(self) -> list[str]:
        return self.plan.captions


def latent_frames(plan: CachePlan, clip: Clip, place: str) -> int:
    """Latent frames of a clip that is cut from those that were encoded.

    Args:
        plan: What was encoded.
        clip: What a clip shall measure.
        place: Where the latents are, for the error.

    Raises:
        ValueError: If the encoded clips are shorter, or others; both are named.
    """
    factor, extra = plan.temporal_factor, clip.frames - 1
    if replace(clip, frames=plan.clip.frames) != plan.clip or clip.frames > plan.clip.frames or extra % factor:
        wanted, found = (", ".join(f"{name} {value:g}" for name, value in asdict(one).items()) for one in (clip, plan.clip))
        raise ValueError(f"{place} has latents of clips with {found}; asked for {wanted} (1 + {factor} * n frames, at most those)")
    return 1 + extra // factor
