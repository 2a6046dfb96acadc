"""Text features of a frozen encoder, computed once and stored in a file."""

from modules.storage.text_features.cache import EncoderIdentity, FeatureCache
from modules.storage.text_features.writer import merge, write_cache

__all__ = ["EncoderIdentity", "FeatureCache", "merge", "write_cache"]
