"""Writing caches of text features with constant memory."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from modules.storage.atomic_files import atomic_write
from modules.storage.checksums import raw, seal_of, text_tensor
from modules.storage.text_features.cache import FORMAT, EncoderIdentity, FeatureCache

# Bytes reserved for shapes and offsets in the file's header, which is written last.
HEADER_BYTES = 1024


def write_cache(path: str | Path, encoder: EncoderIdentity, texts: Sequence[str], features: Iterable[Tensor]) -> None:
    """Write a cache atomically, one text at a time.

    Args:
        path: File to write; its folder is created if missing.
        encoder: Encoder of the features.
        texts: Distinct texts.
        features: ``(n, D)`` per text, of any float dtype, on any device, ``n`` at least 1.

    Raises:
        ValueError: If there are no texts, a text is repeated or has no tokens, or feature sizes differ.
    """
    path = Path(path)
    if not texts or len(set(texts)) < len(texts):
        raise ValueError(f"{path} needs at least one text and no duplicates, got {len(texts)} texts, {len(set(texts))} of them distinct")
    with atomic_write(path) as temporary:
        _write(temporary, encoder, texts, features)


def merge(sources: Sequence[Path], path: Path) -> None:
    """Merge caches of one encoder into one, which may replace one of them; of equal texts the first is kept.

    Raises:
        ValueError: If a source is damaged, or the encoders differ.
    """
    kept: dict[str, tuple[Path, int]] = {}
    encoders: dict[str, EncoderIdentity] = {}
    for source in sources:
        cache = FeatureCache(source)
        encoders.setdefault(cache.encoder.sha256, cache.encoder)
        for number, text in enumerate(cache.texts):
            kept.setdefault(text, (source, number))
    first, *others = encoders.values()
    if others:
        raise ValueError(f"a cache cannot have features of both {first} and {others[0]}")
    write_cache(path, first, list(kept), _features_of(kept.values()))


def _features_of(entries: Iterable[tuple[Path, int]]) -> Iterator[Tensor]:
    """Yield features from several caches, of which one is open at a time."""
    cache = None
    for path, number in entries:
        if cache is None or cache.path != path:
            cache = FeatureCache(path)
        yield cache.features(number)


def _write(path: Path, encoder: EncoderIdentity, texts: Sequence[str], features: Iterable[Tensor]) -> None:
    """Write the file without safetensors, which needs all features in memory. The header comes first but is known last."""
    metadata = {"format": FORMAT, "encoder": encoder.name, "sha256": encoder.sha256}
    header_bytes = (HEADER_BYTES + len(json.dumps(metadata))) // 8 * 8
    names = text_tensor(json.dumps(list(texts)))
    with open(path, "wb") as file:
        file.seek(8 + header_bytes + 8 * (len(texts) + 1))
        offsets, digests, width = _write_features(file, texts, features)
        seal = seal_of(metadata, width, (offsets, names, digests))
        file.write(raw(names) + raw(digests) + seal)
        shapes = {"offsets": ("I64", list(offsets.shape)), "features": ("BF16", [int(offsets[-1]), width])}
        shapes |= {"texts": ("U8", list(names.shape)), "digests": ("U8", list(digests.shape)), "seal": ("U8", [len(seal)])}
        file.seek(0)
        file.write(header_bytes.to_bytes(8, "little") + _header(metadata, shapes).ljust(header_bytes) + raw(offsets))


def _write_features(file: BinaryIO, texts: Sequence[str], features: Iterable[Tensor]) -> tuple[Tensor, Tensor, int]:
    """Write all features; return their offsets, digests and size ``D``."""
    offsets, digests, width = [0], bytearray(), 0
    for text, value in zip(texts, features, strict=True):
        width = width or value.shape[-1]
        if value.ndim != 2 or value.shape[1] != width or not value.numel():
            raise ValueError(f"features must be (1 or more, {width}), those of {text!r} are {tuple(value.shape)}")
        content = raw(value.detach().to("cpu", torch.bfloat16))
        digests += hashlib.sha256(content).digest()
        offsets.append(offsets[-1] + len(value))
        file.write(content)
    return torch.tensor(offsets), torch.frombuffer(digests, dtype=torch.uint8).view(-1, 32), width


def _header(metadata: dict[str, str], shapes: dict[str, tuple[str, list[int]]]) -> bytes:
    """Return the header of a safetensors file with contiguous tensors."""
    header: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name, (kind, shape) in shapes.items():
        end = start + math.prod(shape) * {"I64": 8, "BF16": 2, "U8": 1}[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        start = end
    return json.dumps(header).encode()
