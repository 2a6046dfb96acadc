"""Latents of clips, encoded once by a tokenizer and kept in files."""

from modules.storage.latents.cache import CachedClip, LatentCache, plan_path, shard_files, shard_path
from modules.storage.latents.header import CachePlan, Numbers, Shard, bytes_of_latent, clips_of_shard
from modules.storage.latents.writer import open_plan, write_shard

__all__ = [
    "CachePlan",
    "CachedClip",
    "LatentCache",
    "Numbers",
    "Shard",
    "bytes_of_latent",
    "clips_of_shard",
    "open_plan",
    "plan_path",
    "shard_files",
    "shard_path",
    "write_shard",
]
