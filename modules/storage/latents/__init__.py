"""Latents of clips, encoded once by a tokenizer and stored in files."""

from modules.storage.latents.cache import CachedClip, LatentCache, header_path, shard_files, shard_path
from modules.storage.latents.header import CacheHeader, Shard, StorageDtype, bytes_of_latent, clips_of_shard
from modules.storage.latents.writer import open_header, write_shard

__all__ = [
    "CacheHeader",
    "CachedClip",
    "LatentCache",
    "Shard",
    "StorageDtype",
    "bytes_of_latent",
    "clips_of_shard",
    "header_path",
    "open_header",
    "shard_files",
    "shard_path",
    "write_shard",
]
