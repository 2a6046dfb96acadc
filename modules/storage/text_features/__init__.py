"""Features of texts, made once by a frozen encoder and kept in a file."""

from modules.storage.text_features.cache import EncoderIdentity, FeatureCache
from modules.storage.text_features.writer import merge, write_cache

__all__ = ["EncoderIdentity", "FeatureCache", "merge", "write_cache"]
