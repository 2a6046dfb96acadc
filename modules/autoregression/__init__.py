"""Where tokens meet the transformer: teaching and sampling, side by side."""

from modules.autoregression.corruption import BitCorruption, Corrupts, Shows
from modules.autoregression.generation import Extension, Generation
from modules.autoregression.guidance import Guidance
from modules.autoregression.memory import LatentMemory
from modules.autoregression.objective import bit_loss
from modules.autoregression.rollout import Rollout
from modules.autoregression.sampler import LatentFrame, Sampler
from modules.autoregression.teacher import Lesson, teach

__all__ = [
    "BitCorruption",
    "Corrupts",
    "Extension",
    "Generation",
    "Guidance",
    "LatentFrame",
    "LatentMemory",
    "Lesson",
    "Rollout",
    "Sampler",
    "Shows",
    "bit_loss",
    "teach",
]
