"""Where tokens meet the transformer: teaching and sampling, side by side."""

from modules.autoregression.corruption import BitCorruption, ContextSource, Corrupts
from modules.autoregression.generation import Generation
from modules.autoregression.guidance import Guidance
from modules.autoregression.latent_memory import InMemoryLatentCache
from modules.autoregression.long_video import KVCacheWindow, LongVideoStrategy, ReEncoding
from modules.autoregression.objective import bit_loss, loss_by_scale
from modules.autoregression.rollout import Rollout
from modules.autoregression.sampler import LatentFrame, Sampler, SamplingRun
from modules.autoregression.scale_weights import ScaleWeights
from modules.autoregression.teacher_forcing import TeacherForcingBatch, teacher_forcing

__all__ = [
    "BitCorruption",
    "ContextSource",
    "Corrupts",
    "Generation",
    "Guidance",
    "InMemoryLatentCache",
    "KVCacheWindow",
    "LatentFrame",
    "LongVideoStrategy",
    "ReEncoding",
    "Rollout",
    "Sampler",
    "SamplingRun",
    "ScaleWeights",
    "TeacherForcingBatch",
    "bit_loss",
    "loss_by_scale",
    "teacher_forcing",
]
