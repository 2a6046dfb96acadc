"""Fills a cache of text features, for ``FeatureCondition``: every caption and prompt goes through a text encoder once.

``python -m scripts.encode_texts --manifest my.jsonl --encoder google/t5-v1_1-base --out features.safetensors`` encodes the captions
of a manifest. The same command with other manifests or prompts adds what is new; interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from datamodules.clips.manifest import read_manifest
from datamodules.predict.prompt_files import conditions_of
from modules.storage.text_features import FeatureCache, merge, write_cache
from modules.storage.text_features.encoder import HuggingFaceEncoder, TextEncoder

log = logging.getLogger(__name__)

# Features are written as often as this many tokens are encoded, half a GB of the largest T5.
TOKENS_PER_PART = 2**16

# Texts that are counted at once.
TEXTS_PER_COUNT = 4096


def fill(out: Path, texts: Sequence[str], encoder: TextEncoder, batch_size: int = 32) -> None:
    """Adds texts to a cache, which is made if missing. Empty ones are left out: they stand for no condition.

    What is encoded lies in a folder beside ``out``, ``NAME.parts``, until all of it is; an interrupted call is continued from there.

    Args:
        out: The cache.
        texts: What it shall have besides what it has.
        encoder: With what to encode.
        batch_size: Texts to encode at once.

    Raises:
        ValueError: If the cache is damaged or of another encoder, there is too little room on the disc, or ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    parts = out.with_name(f"{out.name}.parts")
    known = _known_texts(_sources(out, parts), encoder)
    missing = [text for text in dict.fromkeys(texts) if text and text not in known]
    log.info("%d texts to encode; %d are encoded already", len(missing), len(known))
    if missing:
        _encode(missing, encoder, batch_size, out, parts)
    if parts.exists():
        merge(_sources(out, parts), out)
        shutil.rmtree(parts)
    log.info("%s has %d texts, %.1f MB", out, len(FeatureCache(out)), out.stat().st_size / 1e6)


def _encode(texts: list[str], encoder: TextEncoder, batch_size: int, out: Path, parts: Path) -> None:
    """Writes the features of all texts into parts."""
    counts = [count for first in range(0, len(texts), TEXTS_PER_COUNT) for count in encoder.count(texts[first : first + TEXTS_PER_COUNT])]
    _announce(counts, encoder, out)
    # Texts of like length share a batch; the longest first, so that a batch too large for the memory is so at once.
    ordered = [texts[place] for place in sorted(range(len(texts)), key=lambda place: -counts[place])]
    started, done = time.monotonic(), 0
    for part, features in _parts(ordered, encoder, batch_size):
        write_cache(parts / f"{len(list(parts.glob('*'))):06d}.safetensors", encoder.identity, part, features)
        done += len(part)
        left = (time.monotonic() - started) / done * (len(texts) - done)
        log.info("encoded %d of %d texts, about %.0f s left", done, len(texts), left)


def _parts(texts: list[str], encoder: TextEncoder, batch_size: int) -> Iterator[tuple[list[str], list[torch.Tensor]]]:
    """Texts and their features, as many as are written at once."""
    features: list[torch.Tensor] = []
    first = 0
    for start in range(0, len(texts), batch_size):
        stop = min(start + batch_size, len(texts))
        features += [one.to("cpu", torch.bfloat16) for one in encoder.encode(texts[start:stop])]
        if stop == len(texts) or sum(map(len, features)) >= TOKENS_PER_PART:
            yield texts[first:stop], features
            first, features = stop, []


def _announce(counts: list[int], encoder: TextEncoder, out: Path) -> None:
    """Says how much will be written and what will be cut, before any of it takes place."""
    kept = sum(min(count, encoder.longest) for count in counts)
    size = kept * encoder.width * 2
    text = "%d texts of %.1f tokens in the mean, %d numbers a token at 2 bytes: %.1f MB"
    log.info(text, len(counts), kept / len(counts), encoder.width, size / 1e6)
    cut = [count for count in counts if count > encoder.longest]
    if cut:
        log.warning("%d texts have more than %d tokens and are cut, the longest has %d", len(cut), encoder.longest, max(cut))
    out.parent.mkdir(parents=True, exist_ok=True)
    # The parts and, beside them, the file that they and the old one are merged into.
    needed, free = 2 * size + (out.stat().st_size if out.exists() else 0), shutil.disk_usage(out.parent).free
    if needed > free:
        raise ValueError(f"{out} needs {needed / 1e9:.1f} GB of disc while it is made, {free / 1e9:.1f} GB are free")


def _sources(out: Path, parts: Path) -> list[Path]:
    return [*([out] if out.exists() else []), *sorted(parts.glob("*.safetensors"))]


def _known_texts(sources: list[Path], encoder: TextEncoder) -> set[str]:
    known = set()
    for path in sources:
        cache = FeatureCache(path)
        if cache.encoder.sha256 != encoder.identity.sha256:
            raise ValueError(f"{path} has features of {cache.encoder}, not of {encoder.identity}: give another --out, or remove it")
        known |= set(cache.texts)
    return known


def texts_of(manifests: Sequence[str], prompts: Sequence[str]) -> list[str]:
    """All captions of manifests and all conditions of prompt files.

    Raises:
        ValueError: If a file is missing or wrong, or there is no text in all of them.
    """
    texts = [row.caption for manifest in manifests for row in read_manifest(manifest) if row.caption]
    texts += [text for file in prompts for text in conditions_of(file) if text]
    if not texts:
        raise ValueError(f"there are no texts in {', '.join([*manifests, *prompts]) or 'nothing: give --manifest or --prompts'}")
    return texts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Encodes captions and prompts once, for a model with a FeatureCondition.")
    parser.add_argument("--manifest", nargs="+", default=[], help="manifests (.jsonl) with captions, those to train on and those held out")
    parser.add_argument("--prompts", nargs="+", default=[], help="files of prompts, .txt, .csv or .jsonl")
    parser.add_argument("--encoder", required=True, help="a folder with a Hugging Face model and its tokenizer, or its name on the hub")
    parser.add_argument("--out", type=Path, required=True, help="the cache; texts are added if it exists")
    parser.add_argument("--longest", type=int, default=512, help="most tokens of a text, longer ones are cut")
    parser.add_argument("--batch_size", type=int, default=32, help="texts to encode at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to encode")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)  # the libraries' own messages of this kind, one per download request, stay unseen
    try:
        texts = texts_of(given.manifest, given.prompts)
        fill(given.out, texts, HuggingFaceEncoder(given.encoder, given.device, given.longest), given.batch_size)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
