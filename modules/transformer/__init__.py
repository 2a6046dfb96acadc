"""Tokens to bit logits (paper 4.2)."""

from modules.transformer.attention.random_frame_mask import RandomFrameMask
from modules.transformer.condition import ClassCondition, Condition, TextCondition
from modules.transformer.execution import Execution
from modules.transformer.feature_condition import FeatureCondition
from modules.transformer.rope import MultiScaleTemporalRope, PlainRope, Rope
from modules.transformer.transformer import VideoARTransformer, check_scales

__all__ = [
    "ClassCondition",
    "Condition",
    "Execution",
    "FeatureCondition",
    "MultiScaleTemporalRope",
    "PlainRope",
    "RandomFrameMask",
    "Rope",
    "TextCondition",
    "VideoARTransformer",
    "check_scales",
]
