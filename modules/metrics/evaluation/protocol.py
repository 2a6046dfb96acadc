"""How a number was made: what has to be equal before two numbers may be compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from modules.geometry import Clip


@dataclass(frozen=True)
class Protocol:
    """A way to compare generated videos with real ones. Presets are in ``configs/protocol/``.

    Nothing here changes how videos are made; a run that differs is measured all the same, and its numbers say in what it differs.

    Args:
        name: Stands beside every number.
        frames: Frames of a video that are looked at, from its first on; its model may make more.
        clips: Videos on each side; as many as there are if not given.
        split: Split of the data that the real videos and the conditions come from.
        classes: Conditions of generated videos: ``empirical``, those of the real videos, or ``uniform``, every class equally often.
        height: Rows of the videos; any if not given.
        width: Columns; any if not given.
        fps: Frames per second; any if not given.
        features: Title that the distance must have, such as ``FVD``; any if not given.
        repeats: Seeds over which a generated number is averaged.
        source: Where the protocol is from and what of it is not reproduced.

    Raises:
        ValueError: If a number is not positive.
    """

    name: str = "own"
    frames: int = 16
    clips: int | None = None
    split: Literal["train", "val", "test"] = "test"
    classes: Literal["empirical", "uniform"] = "empirical"
    height: int | None = None
    width: int | None = None
    fps: float | None = None
    features: str | None = None
    repeats: int = 4
    source: str = ""

    def __post_init__(self) -> None:
        for name in ("frames", "clips", "height", "width", "fps", "repeats"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"protocol {self.name}: {name} must be positive, got {value}")

    def departures(self, clip: Clip, features: str, real: int, made: int, repeats: int | None = None) -> list[str]:
        """In what a measurement differs from this protocol, in words; empty if in nothing.

        Args:
            clip: What the videos measure.
            features: Title of the distance.
            real: Real videos that were used.
            made: Videos that were compared with them.
            repeats: Seeds that were used, if any.

        Raises:
            ValueError: If the videos are too short, which no remark can mend.
        """
        if clip.frames < self.frames:
            raise ValueError(f"protocol {self.name} looks at {self.frames} frames, the videos have {clip.frames}")
        found = {
            f"{real} real videos instead of {self.clips}": self.clips not in (None, real),
            f"{made} videos instead of {self.clips}": self.clips is not None and made not in (real, self.clips),
            f"{clip.height} rows instead of {self.height}": self.height not in (None, clip.height),
            f"{clip.width} columns instead of {self.width}": self.width not in (None, clip.width),
            f"{clip.fps:g} frames per second instead of {self.fps:g}" if self.fps else "": self.fps not in (None, clip.fps),
            f"{features} instead of {self.features}": self.features not in (None, features),
            f"{repeats} seeds instead of {self.repeats}": repeats not in (None, self.repeats),
        }
        return [text for text, differs in found.items() if differs]

    def plain(self) -> dict[str, Any]:
        """All fields as plain values, for files."""
        return asdict(self)
