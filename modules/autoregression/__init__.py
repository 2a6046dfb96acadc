"""Where tokens meet the transformer: teaching and sampling, side by side."""

from modules.autoregression.corruption import BitCorruption, Corrupts
from modules.autoregression.generation import Extension, Generation
from modules.autoregression.guidance import Guidance
from modules.autoregression.memory import LatentMemory
from modules.autoregression.objective import bit_loss
from modules.autoregression.sampler import Sampler
from modules.autoregression.teacher import Lesson, teach

__all__ = [
    "BitCorruption",
    "Corrupts",
    "Extension",
    "Generation",
    "Guidance",
    "LatentMemory",
    "Lesson",
    "Sampler",
    "bit_loss",
    "teach",
]
