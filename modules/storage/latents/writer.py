"""Writing caches of latents, shard by shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from modules.storage.checksums import digest_of, seal_of, text_tensor
from modules.storage.latents.cache import CachedClip, metadata_of, plan_path, read_plan
from modules.storage.latents.header import CachePlan, Shard


def open_plan(folder: Path, plan: CachePlan) -> tuple[CachePlan, bool]:
    """The plan to go on with and whether the folder has it already: the one that is there, or the new one.

    Raises:
        ValueError: If another cache was begun in the folder; what differs is named.
    """
    if not plan_path(folder).exists():
        return plan, False
    begun = read_plan(folder)
    begun.check_same(CachePlan.from_json(plan.to_json()), folder)
    return begun, True


def write_shard(path: Path, plan: CachePlan, shard: Shard, clips: Sequence[CachedClip]) -> None:
    """Writes the file of a shard.

    Raises:
        ValueError: If the clips are not as many as planned, or a latent has another shape.
    """
    if len(clips) != shard.count or any(clip.latent.shape != plan.latent for clip in clips):
        shapes = sorted({tuple(clip.latent.shape) for clip in clips})
        raise ValueError(f"shard {shard.name} needs {shard.count} latents of {plan.latent}, got {len(clips)} of {shapes}")
    numbers = getattr(torch, plan.numbers)
    latents = torch.stack([clip.latent.detach().to("cpu", numbers) for clip in clips])
    if not latents.isfinite().all():
        raise ValueError(f"shard {shard.name} has latents that are not finite as {plan.numbers}")
    index = {
        "labels": torch.tensor([clip.label for clip in clips]),
        "indices": torch.tensor([clip.index for clip in clips]),
        "captions": text_tensor(json.dumps([clip.caption for clip in clips])),
        "digests": torch.frombuffer(bytearray(b"".join(map(digest_of, latents))), dtype=torch.uint8).view(-1, 32),
    }
    metadata = metadata_of(shard.name, plan.sha256)
    seal = seal_of(metadata, list(latents.shape), list(index.values()))
    save_file({"latents": latents, **index, "seal": torch.frombuffer(bytearray(seal), dtype=torch.uint8)}, path, metadata)
