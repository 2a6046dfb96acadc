"""Tokens to bit logits (paper 4.2)."""

from modules.transformer.condition import ClassCondition, Condition, TextCondition
from modules.transformer.feature_condition import FeatureCondition
from modules.transformer.masks import RandomFrameMask
from modules.transformer.transformer import VideoARTransformer

__all__ = ["ClassCondition", "Condition", "FeatureCondition", "RandomFrameMask", "TextCondition", "VideoARTransformer"]
