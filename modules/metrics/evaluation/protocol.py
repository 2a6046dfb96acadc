"""Evaluation protocols: settings that must be equal before two values may be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from modules.geometry import Clip


@dataclass(frozen=True)
class Protocol:
    """Protocol of a comparison of generated with real videos. Presets are in ``configs/protocol/``.

    It does not change how videos are generated. A run that departs from it is measured too, and the departures are noted.

    Args:
        name: Name, shown with every value.
        frames: Leading frames of a video to compare; the model may generate more.
        clips: Videos on each side; all available ones if None.
        split: Split of the real videos and the conditions.
        classes: Conditions of generated videos: ``empirical``, those of the real videos, or ``uniform``, every class equally often.
        height: Height in pixels; None for any.
        width: Width in pixels; None for any.
        fps: Frames per second; None for any.
        features: Required title of the distance, such as ``FVD``; None for any.
        repeats: Number of seeds to average over.
        source: Publication, and what of it is not reproduced.

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
        """Return the differences of a measurement from this protocol, in words.

        Args:
            clip: Size of the videos.
            features: Title of the distance.
            real: Number of real videos.
            made: Number of videos compared with them.
            repeats: Number of seeds, if any.

        Raises:
            ValueError: If the videos are too short to be measured.
        """
        if clip.frames < self.frames:
            raise ValueError(f"protocol {self.name} needs {self.frames} frames, the videos have {clip.frames}")
        differences = {
            f"{real} real videos instead of {self.clips}": self.clips not in (None, real),
            f"{made} videos instead of {self.clips}": self.clips is not None and made not in (real, self.clips),
            f"{clip.height} rows instead of {self.height}": self.height not in (None, clip.height),
            f"{clip.width} columns instead of {self.width}": self.width not in (None, clip.width),
            f"{clip.fps:g} frames per second instead of {self.fps:g}" if self.fps else "": self.fps not in (None, clip.fps),
            f"{features} instead of {self.features}": self.features not in (None, features),
            f"{repeats} seeds instead of {self.repeats}": repeats not in (None, self.repeats),
        }
        return [text for text, differs in differences.items() if differs]

    def note(self, clip: Clip, features: str, real: int, made: int, repeats: int | None = None) -> str:
        """Return :meth:`departures` as one remark; empty if there are none."""
        departures = self.departures(clip, features, real, made, repeats)
        return f"not {self.name}: {', '.join(departures)}" if departures else ""
