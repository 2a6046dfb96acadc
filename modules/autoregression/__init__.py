"""Where tokens meet the transformer: teaching and sampling, side by side."""

from modules.autoregression.corruption import BitCorruption, Corrupts, Shows
from modules.autoregression.generation import Generation
from modules.autoregression.guidance import Guidance
from modules.autoregression.latent_memory import LatentMemory
from modules.autoregression.long_video import Extension, ReEncoding, TokenKeeping
from modules.autoregression.objective import bit_loss
from modules.autoregression.rollout import Rollout
from modules.autoregression.sampler import LatentFrame, Sampler, SamplingRun
from modules.autoregression.teacher_forcing import Lesson, teach

__all__ = [
    "BitCorruption",
    "Corrupts",
    "Extension",
    "Generation",
    "Guidance",
    "LatentFrame",
    "LatentMemory",
    "Lesson",
    "ReEncoding",
    "Rollout",
    "Sampler",
    "SamplingRun",
    "Shows",
    "TokenKeeping",
    "bit_loss",
    "teach",
]
