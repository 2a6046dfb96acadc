"""Cache of text features for ``FeatureCondition``: every caption and prompt is encoded once by a frozen text encoder.

``python -m scripts.encode_texts --manifest my.jsonl --encoder google/t5-v1_1-base --out features.safetensors`` encodes the captions of a
manifest. The same command with other manifests or prompts adds new texts; an interrupted one continues.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from datamodules.clips.manifest import read_manifest
from datamodules.predict.prompt_files import conditions_of
from modules.storage.text_features import FeatureCache, merge, write_cache
from modules.storage.text_features.encoder import HuggingFaceEncoder, TextEncoder
from scripts.cli import run

log = logging.getLogger(__name__)

# Tokens after which features are written: half a GB for the largest T5.
TOKENS_PER_PART = 2**16

# Texts that are tokenized at once to count their tokens.
TEXTS_PER_COUNT = 4096


def encode_texts(
    *,
    encoder: str,
    out: Path,
    manifest: list[str] | None = None,
    prompts: list[str] | None = None,
    longest: int = 512,
    batch_size: int = 32,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Encode captions and prompts once, for a model with a FeatureCondition.

    Args:
        encoder: Folder with a Hugging Face model and its tokenizer, or its name on the hub.
        out: File of the cache; texts are added if it exists.
        manifest: Manifests (.jsonl) with captions, for training and held out.
        prompts: Prompt files, .txt, .csv or .jsonl.
        longest: Maximum number of tokens of a text; longer texts are cut.
        batch_size: Texts to encode at once.
        device: Device of the encoder.
    """
    texts = texts_of(manifest or [], prompts or [])
    fill(out, texts, HuggingFaceEncoder(encoder, device, longest), batch_size)


def fill(out: Path, texts: Sequence[str], encoder: TextEncoder, batch_size: int = 32) -> None:
    """Add texts to a cache, which is created if missing. Empty texts are skipped: they stand for no condition.

    Encoded texts are kept in the folder ``NAME.parts`` beside ``out`` until all are encoded; an interrupted call continues from there.

    Args:
        out: File of the cache.
        texts: Texts to add.
        encoder: Encoder of the cache.
        batch_size: Texts to encode at once.

    Raises:
        ValueError: If the cache is damaged or of another encoder, the disk has too little space, or ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    parts = out.with_name(f"{out.name}.parts")
    known = _known_texts(_sources(out, parts), encoder)
    missing = [text for text in dict.fromkeys(texts) if text and text not in known]
    log.info("%d texts to encode; %d are already encoded", len(missing), len(known))
    if missing:
        _encode(missing, encoder, batch_size, out, parts)
    if parts.exists():
        merge(_sources(out, parts), out)
        shutil.rmtree(parts)
    log.info("%s has %d texts, %.1f MB", out, len(FeatureCache(out)), out.stat().st_size / 1e6)


def texts_of(manifests: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """Return all captions of manifests and all conditions of prompt files.

    Raises:
        ValueError: If a file is missing or invalid, or there are no texts.
    """
    texts = [row.caption for manifest in manifests for row in read_manifest(manifest) if row.caption]
    texts += [text for file in prompts for text in conditions_of(file) if text]
    if not texts:
        raise ValueError(f"there are no texts in {', '.join([*manifests, *prompts]) or 'nothing: give --manifest or --prompts'}")
    return texts


def _encode(texts: list[str], encoder: TextEncoder, batch_size: int, out: Path, parts: Path) -> None:
    """Write the features of all texts into parts."""
    counts = [count for first in range(0, len(texts), TEXTS_PER_COUNT) for count in encoder.count(texts[first : first + TEXTS_PER_COUNT])]
    _check_space(counts, encoder, out)
    # Sorted by length, so that a batch has little padding; longest first, so that a batch too large for the memory fails at once.
    ordered = [texts[index] for index in sorted(range(len(texts)), key=lambda index: -counts[index])]
    started, done = time.monotonic(), 0
    for part, features in _parts(ordered, encoder, batch_size):
        write_cache(parts / f"{len(list(parts.glob('*'))):06d}.safetensors", encoder.identity, part, features)
        done += len(part)
        left = (time.monotonic() - started) / done * (len(texts) - done)
        log.info("encoded %d of %d texts, about %.0f s left", done, len(texts), left)


def _parts(texts: list[str], encoder: TextEncoder, batch_size: int) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
    """Yield texts and their features, at least ``TOKENS_PER_PART`` tokens at a time except for the last part."""
    features: list[torch.Tensor] = []
    first = 0
    for start in range(0, len(texts), batch_size):
        stop = min(start + batch_size, len(texts))
        features += [one.to("cpu", torch.bfloat16) for one in encoder.encode(texts[start:stop])]
        if stop == len(texts) or sum(map(len, features)) >= TOKENS_PER_PART:
            yield texts[first:stop], features
            first, features = stop, []


def _check_space(counts: list[int], encoder: TextEncoder, out: Path) -> None:
    """Log the size of the features and the number of cut texts; raises ``ValueError`` if the disk has too little space."""
    kept = sum(min(count, encoder.longest) for count in counts)
    size = kept * encoder.width * 2
    message = "%d texts of %.1f tokens on average, %d features per token at 2 bytes: %.1f MB"
    log.info(message, len(counts), kept / len(counts), encoder.width, size / 1e6)
    cut = [count for count in counts if count > encoder.longest]
    if cut:
        log.warning("%d texts have more than %d tokens and are cut; the longest has %d", len(cut), encoder.longest, max(cut))
    out.parent.mkdir(parents=True, exist_ok=True)
    # The parts, and the file into which they and the old one are merged.
    needed, free = 2 * size + (out.stat().st_size if out.exists() else 0), shutil.disk_usage(out.parent).free
    if needed > free:
        raise ValueError(f"{out} needs {needed / 1e9:.1f} GB of disk space while it is written, {free / 1e9:.1f} GB are free")


def _sources(out: Path, parts: Path) -> list[Path]:
    return [*([out] if out.exists() else []), *sorted(parts.glob("*.safetensors"))]


def _known_texts(sources: list[Path], encoder: TextEncoder) -> set[str]:
    known = set()
    for path in sources:
        cache = FeatureCache(path)
        if cache.encoder.sha256 != encoder.identity.sha256:
            raise ValueError(f"{path} has features of {cache.encoder}, not of {encoder.identity}: use another --out, or remove it")
        known |= set(cache.texts)
    return known


if __name__ == "__main__":
    run(encode_texts)
