"""Turns a cache of latents into a stream: chunks in LitData's format, in a folder or in object storage.

``python -m scripts.stream_latents --cache runs/latents --out s3://bucket/latents`` needs ``pip install -e '.[stream]'``. Interrupted,
the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import sys

from datamodules.latents.litdata_format import PLAN, ReadClip, first_line, litdata, open_stream, read_header
from modules.storage.latents import LatentCache

log = logging.getLogger(__name__)

# What is fetched at once.
CHUNK_BYTES = "64MB"


def write_stream(cache: LatentCache, out: str, workers: int = 1) -> None:
    """Writes all splits of a cache.

    Args:
        cache: The cache.
        out: Folder or URL to write to.
        workers: Processes; they decide which clips share a chunk.

    Raises:
        ValueError: If the stream of another cache was begun there, a shard of the cache is damaged, or LitData is not installed.
    """
    size = cache.plan.bytes_of(list(cache.plan.shards()))
    log.info("%d clips to write, %.1f MB", sum(cache.plan.splits.values()), size / 1e6)
    if _is_there(out, PLAN):
        read_header(out).check_same(cache.plan, out)
    else:
        _write(_PlanItem(cache.plan.to_json()), 1, f"{out}/{PLAN}", 1)
    for split, clips in cache.plan.splits.items():
        if not _is_there(out, split):
            _write(ReadClip(cache, split), clips, f"{out}/{split}", workers)
        log.info("%s/%s has %d clips", out, split, clips)


class _PlanItem(str):
    """The text of a plan as the only item of a stream."""

    def __call__(self, _: int) -> dict[str, str]:
        return {"plan": str(self)}


def _is_there(out: str, part: str) -> bool:
    try:
        open_stream(out, part)
    except ValueError:
        return False
    return True


def _write(read: ReadClip | _PlanItem, count: int, part: str, workers: int) -> None:
    # In order, and remembering what is done, so that an interrupted call goes on and gives the same chunks.
    orderly = {"keep_data_ordered": True, "reorder_files": False, "use_checkpoint": True}
    quick = {"start_method": "fork", "verbose": False}
    try:
        litdata().optimize(read, list(range(count)), part, chunk_bytes=CHUNK_BYTES, num_workers=workers, **orderly, **quick)
    except ValueError:
        raise
    except Exception as error:  # every object storage has a client with errors of its own
        # In a folder LitData goes on with half a part; in object storage it takes it for a whole one.
        raise ValueError(f"{part} cannot be written ({first_line(error)}); if a part of it is there, remove that first") from error


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Writes a cache of latents as chunks that can be streamed.")
    parser.add_argument("--cache", required=True, help="a folder that configs/encode_latents.yaml filled")
    parser.add_argument(
        "--out", required=True, help="a folder, or a place in object storage that LitData knows, such as s3://bucket/latents"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    try:
        write_stream(LatentCache(given.cache), given.out, given.workers)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
