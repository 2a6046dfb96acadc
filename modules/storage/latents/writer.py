"""Writing caches of latents, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from modules.storage.checksums import digest_of, seal_of, text_tensor
from modules.storage.latents.cache import CachedClip, header_path, metadata_of, read_header
from modules.storage.latents.header import CacheHeader, Shard


def open_header(folder: Path, header: CacheHeader) -> tuple[CacheHeader, bool]:
    """Return the header to continue with, the existing one if the folder has one, and True if it has one.

    Raises:
        ValueError: If the folder has the header of another cache; the message names the difference.
    """
    if not header_path(folder).exists():
        return header, False
    existing = read_header(folder)
    existing.check_same(header, folder)
    return existing, True


def write_shard(path: Path, header: CacheHeader, shard: Shard, clips: Sequence[CachedClip]) -> None:
    """Write the file of a shard.

    Raises:
        ValueError: If the number of clips or the shape of a latent is wrong, or a latent is not finite in the storage type.
    """
    if len(clips) != shard.count or any(clip.latent.shape != header.latent for clip in clips):
        shapes = sorted({tuple(clip.latent.shape) for clip in clips})
        raise ValueError(f"shard {shard.name} needs {shard.count} latents of {header.latent}, got {len(clips)} of {shapes}")
    dtype = getattr(torch, header.dtype)
    latents = torch.stack([clip.latent.detach().to("cpu", dtype) for clip in clips])
    if not latents.isfinite().all():
        raise ValueError(f"shard {shard.name} has latents that are not finite as {header.dtype}")
    index = {
        "labels": torch.tensor([clip.label for clip in clips]),
        "indices": torch.tensor([clip.index for clip in clips]),
        "captions": text_tensor(json.dumps([clip.caption for clip in clips])),
        "digests": torch.frombuffer(bytearray(b"".join(map(digest_of, latents))), dtype=torch.uint8).view(-1, 32),
    }
    metadata = metadata_of(shard.name, header.sha256)
    seal = seal_of(metadata, list(latents.shape), list(index.values()))
    save_file({"latents": latents, **index, "seal": torch.frombuffer(bytearray(seal), dtype=torch.uint8)}, path, metadata)
