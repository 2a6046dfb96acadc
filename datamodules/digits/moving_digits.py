"""Moving digits: procedural clips of a coloured digit that crosses a dark background. Needs no files; the first run and the tests use it.

The world is a torus and the speed constant, so a clip can go on for as long as a rollout lasts and still look like the training data.
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

# The hue, in degrees, at which a colour word ends; what lies beyond the last one is red again.
HUES = {"red": 15, "orange": 42, "yellow": 68, "green": 160, "cyan": 195, "blue": 255, "purple": 290, "pink": 345}


@dataclass(frozen=True)
class DigitStory:
    """Everything that happens in a clip, before it is drawn; free of the clip's size and length.

    Args:
        label: Class id, ``digit * 4 + direction``.
        along: Start on the axis of motion, as a share of the side in whole 32nds.
        across: Distance from the centre on the other axis, in pixels of a 32 pixel side.
        hue: Hue of the digit, 0..1.
        ink: Colour of the digit, RGB in 0..1.
        ground: Colour of the background, RGB in 0..1.
    """

    label: int
    along: float
    across: float
    hue: float
    ink: tuple[float, float, float]
    ground: tuple[float, float, float]

    @property
    def caption(self) -> str:
        digit, direction = CLASSES[self.label].split()
        return f"a {colour_word(self.hue)} {digit} moving {direction}"


def colour_word(hue: float) -> str:
    """The name of a hue in 0..1."""
    return next((word for word, end in HUES.items() if hue * 360 < end), "red")


def tell(seed: int, split: str, index: int, wander: int) -> DigitStory:
    """The story of clip ``index`` of a split. The classes take turns, so any 40 neighbours hold each of them once."""
    # A text seeds Python's generator in full; torch's CPU generator keeps 32 bits of a seed, where clips would coincide by accident.
    chance = random.Random(f"{seed}/{split}/{index}")
    hue = chance.random()
    return DigitStory(
        label=index % len(CLASSES),
        along=chance.randrange(32) / 32,
        across=chance.randint(-wander, wander),
        hue=hue,
        ink=colorsys.hsv_to_rgb(hue, chance.uniform(0.75, 1.0), chance.uniform(0.85, 1.0)),
        ground=colorsys.hsv_to_rgb(chance.random(), chance.uniform(0.3, 1.0), chance.uniform(0.05, 0.25)),
    )


def render(story: DigitStory, clip: Clip, speed: float) -> Tensor:
    """Draws a story.

    Args:
        story: What to draw.
        clip: Number and size of the frames.
        speed: Pixels per frame on a 32 pixel side.

    Returns:
        ``(3, T, H, W)`` uint8.
    """
    digit, direction = divmod(story.label, len(DIRECTIONS))
    steps = list(DIRECTIONS.values())[direction]
    scale = min(clip.height, clip.width) / 32
    cell = cell_size(clip.height, clip.width)
    time = torch.arange(clip.frames, dtype=torch.float64)
    edges: list[Tensor] = []
    for step, side, cells in zip(steps, (clip.height, clip.width), (ROWS, COLUMNS), strict=True):
        start = story.along * side if step else (side - cells * cell) // 2 + story.across * scale
        edges.append(start + step * speed * scale * time)
    coverage = draw(torch.full((clip.frames,), digit), edges[0], edges[1], clip.height, clip.width).float()
    ink, ground = (torch.tensor(colour)[:, None, None, None] for colour in (story.ink, story.ground))
    return torch.lerp(ground, ink, coverage).mul_(255).round_().to(torch.uint8)


class DigitClips(Dataset):
    """The clips of one split as a map-style data set.

    Args:
        clip: Number and size of the frames.
        split: Name of the split; other splits hold other clips.
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
            raise IndexError(f"{self.split} holds the clips 0..{self.length - 1}, got {index}")
        story = tell(self.seed, self.split, index, self.wander)
        video = render(story, self.clip, self.speed)
        return {"video": video, "label": story.label, "caption": story.caption, "index": index}


class MovingDigits(ClipDataModule):
    """Endless clips of a coloured digit that moves up, down, left or right; 40 classes, named like "3 left".

    Args:
        clip: What a clip measures. Digit, speed and wander grow with the shorter side.
        batch_size: Clips per process and step.
        workers: Worker processes per loader.
        seed: Seed of the clips and of their order.
        clips: Training clips per epoch.
        held_out: Validation clips, and test clips.
        speed: Pixels per frame on a 32 pixel side.
        wander: Largest distance from the centre across the motion, in pixels of a 32 pixel side.
        milestones: What training clips measure before a step, by the step.

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
        """The clips of "train", "val" or "test"."""
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
        """Every caption that a clip can have."""
        return [f"a {colour} {digit} moving {way}" for digit in range(10) for way in DIRECTIONS for colour in HUES]

    def judge(self) -> DigitClassifier:
        """Reads digit and direction back from clips, real or generated."""
        return DigitClassifier()
