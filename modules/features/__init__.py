"""Features of texts, made once by a frozen encoder and kept in a file."""

from modules.features.cache import EncoderIdentity, FeatureCache
from modules.features.writer import merge, write_cache

__all__ = ["EncoderIdentity", "FeatureCache", "merge", "write_cache"]
