"""Moving digits: procedural clips of a coloured digit on a dark background, for demo and tests. Needs no files.

Digits move on a torus at constant speed, so a clip of any length looks like the training data.
"""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.base import ClipDataModule, StageOverride
from datamodules.digits.classifier import DigitClassifier
from datamodules.digits.font import COLUMNS, ROWS, cell_size, draw
from modules.geometry import Clip

# Row and column steps of every direction, in the order of the class ids.
DIRECTIONS: dict[str, tuple[int, int]] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
CLASSES = [f"{digit} {direction}" for digit in range(10) for direction in DIRECTIONS]

# Upper end of each colour name in degrees of hue; hues above the last one are red again.
HUES = {"red": 15, "orange": 42, "yellow": 68, "green": 160, "cyan": 195, "blue": 255, "purple": 290, "pink": 345}


@dataclass(frozen=True)
class DigitParameters:
    """Parameters of a clip, independent of its size and length.

    Args:
        label: Class id, ``digit * 4 + direction``.
        along: Start on the axis of motion, as a fraction of the side, a multiple of 1/32.
        across: Distance from the centre on the other axis, in pixels of a 32 pixel side.
        hue: Hue of the digit, 0..1.
        foreground: Colour of the digit, RGB in 0..1.
        background: Colour of the background, RGB in 0..1.
    """

    label: int
    along: float
    across: float
    hue: float
    foreground: tuple[float, float, float]
    background: tuple[float, float, float]

    @property
    def caption(self) -> str:
        digit, direction = CLASSES[self.label].split()
        return f"a {colour_word(self.hue)} {digit} moving {direction}"


def colour_word(hue: float) -> str:
    """Return the colour name of a hue in 0..1."""
    return next((word for word, end in HUES.items() if hue * 360 < end), "red")


def draw_parameters(seed: int, split: str, index: int, wander: int) -> DigitParameters:
    """Return the parameters of clip ``index`` of a split. Classes alternate, so 40 consecutive clips have each of them once."""
    # Python's generator uses all bits of a string seed. Torch's keeps 32 bits of a seed, so clips would coincide by accident.
    generator = random.Random(f"{seed}/{split}/{index}")
    hue = generator.random()
    return DigitParameters(
        label=index % len(CLASSES),
        along=generator.randrange(32) / 32,
        across=generator.randint(-wander, wander),
        hue=hue,
        foreground=colorsys.hsv_to_rgb(hue, generator.uniform(0.75, 1.0), generator.uniform(0.85, 1.0)),
        background=colorsys.hsv_to_rgb(generator.random(), generator.uniform(0.3, 1.0), generator.uniform(0.05, 0.25)),
    )


def render(parameters: DigitParameters, clip: Clip, speed: float) -> Tensor:
    """Draw a clip.

    Args:
        parameters: Parameters of the clip.
        clip: Number and size of the frames.
        speed: Pixels per frame on a 32 pixel side.

    Returns:
        ``(3, T, H, W)`` uint8.
    """
    digit, direction = divmod(parameters.label, len(DIRECTIONS))
    steps = list(DIRECTIONS.values())[direction]
    scale = min(clip.height, clip.width) / 32
    cell = cell_size(clip.height, clip.width)
    time = torch.arange(clip.frames, dtype=torch.float64)
    edges: list[Tensor] = []
    for step, side, cells in zip(steps, (clip.height, clip.width), (ROWS, COLUMNS), strict=True):
        start = parameters.along * side if step else (side - cells * cell) // 2 + parameters.across * scale
        edges.append(start + step * speed * scale * time)
    coverage = draw(torch.full((clip.frames,), digit), edges[0], edges[1], clip.height, clip.width).float()
    colours = (parameters.foreground, parameters.background)
    foreground, background = (torch.tensor(colour)[:, None, None, None] for colour in colours)
    return torch.lerp(background, foreground, coverage).mul_(255).round_().to(torch.uint8)


class DigitClips(Dataset):
    """Clips of one split as a map-style data set.

    Args:
        clip: Number and size of the frames.
        split: Name of the split; every split has other clips.
        length: Number of clips.
        seed: Seed of the whole data set.
        speed: Pixels per frame on a 32 pixel side.
        wander: Largest distance from the centre across the motion, in pixels of a 32 pixel side.
    """

    def __init__(self, clip: Clip, split: str, length: int, *, seed: int, speed: float, wander: int) -> None:
        self.clip, self.split, self.length = clip, split, length
        self.seed, self.speed, self.wander = seed, speed, wander

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(f"index of {self.split} must be in 0..{self.length - 1}, got {index}")
        parameters = draw_parameters(self.seed, self.split, index, self.wander)
        video = render(parameters, self.clip, self.speed)
        return {"video": video, "label": parameters.label, "caption": parameters.caption, "index": index}


class MovingDigits(ClipDataModule):
    """Endless clips of a coloured digit that moves up, down, left or right; 40 classes, named like "3 left".

    Args:
        clip: Size of a clip. Digit, speed and wander scale with the shorter side.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the clips and of their order.
        clips: Training clips per epoch.
        held_out: Number of validation clips, and of test clips.
        speed: Pixels per frame on a 32 pixel side.
        wander: Largest distance from the centre across the motion, in pixels of a 32 pixel side.
        milestones: Size of the training clips before a step, by step.

    Raises:
        ValueError: If a number of clips is below 1 or ``wander`` is negative.
    """

    def __init__(
        self,
        clip: Clip = Clip(),  # noqa: B008 (frozen)
        *,
        batch_size: int = 8,
        workers: int = 0,
        seed: int = 0,
        clips: int = 4096,
        held_out: int = 128,
        speed: float = 1.0,
        wander: int = 3,
        milestones: dict[int, StageOverride] | None = None,
    ) -> None:
        super().__init__(clip, batch_size=batch_size, workers=workers, seed=seed, milestones=milestones)
        if min(clips, held_out) < 1:
            raise ValueError(f"clips and held_out must be at least 1, got {clips} and {held_out}")
        if wander < 0:
            raise ValueError(f"wander must not be negative, got {wander}")
        self.clips, self.held_out, self.speed, self.wander = clips, held_out, speed, wander

    def dataset(self, split: str, clip: Clip | None = None) -> DigitClips:
        """Return the clips of "train", "val" or "test"."""
        length = self.clips if split == "train" else self.held_out
        return DigitClips(clip or self.clip, split, length, seed=self.seed, speed=self.speed, wander=self.wander)

    @property
    def preprocessing(self) -> dict[str, Any]:
        return {**super().preprocessing, "speed": self.speed, "wander": self.wander}

    @property
    def class_names(self) -> list[str]:
        return list(CLASSES)

    @property
    def captions(self) -> list[str]:
        """All captions that a clip can have."""
        return [f"a {colour} {digit} moving {way}" for digit in range(10) for way in DIRECTIONS for colour in HUES]

    def classifier(self) -> DigitClassifier:
        """Return a metric that recognises digit and direction in real or generated clips."""
        return DigitClassifier()
