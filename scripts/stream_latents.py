"""Stream of latents from a cache: chunks in LitData's format, in a folder or in object storage.

``python -m scripts.stream_latents --cache runs/latents --out s3://bucket/latents`` needs ``pip install -e '.[stream]'``. An interrupted
command continues when it is started again.
"""

from __future__ import annotations

import logging

from datamodules.latents.litdata_format import HEADER, ReadClip, first_line, litdata, open_stream, read_header
from modules.storage.latents import LatentCache
from scripts.cli import run

log = logging.getLogger(__name__)

# Size of a chunk, the unit of a download.
CHUNK_BYTES = "64MB"


def stream_latents(*, cache: str, out: str, workers: int = 1) -> None:
    """Write a cache of latents as chunks that can be streamed.

    Args:
        cache: Folder that configs/encode_latents.yaml filled.
        out: Folder, or a URL of an object storage that LitData supports, such as s3://bucket/latents.
        workers: Processes.
    """
    write_stream(LatentCache(cache), out, workers)


def write_stream(cache: LatentCache, out: str, workers: int = 1) -> None:
    """Write all splits of a cache.

    Args:
        cache: The cache.
        out: Folder or URL to write to.
        workers: Processes; their number affects which clips share a chunk.

    Raises:
        ValueError: If the target has the stream of another cache, a shard of the cache is damaged, or LitData is not installed.
    """
    header = cache.header
    log.info("%d clips to write, %.1f MB", sum(header.splits.values()), header.bytes_of(list(header.shards())) / 1e6)
    if _exists(out, HEADER):
        read_header(out).check_same(header, out)
    else:
        _write(_HeaderItem(header.to_json()), 1, f"{out}/{HEADER}", 1)
    for split, clips in header.splits.items():
        if not _exists(out, split):
            _write(ReadClip(cache, split), clips, f"{out}/{split}", workers)
        log.info("%s/%s has %d clips", out, split, clips)


class _HeaderItem(str):
    """Text of a header as the only item of a stream."""

    def __call__(self, _: int) -> dict[str, str]:
        return {"plan": str(self)}


def _exists(out: str, part: str) -> bool:
    try:
        open_stream(out, part)
    except ValueError:
        return False
    return True


def _write(read: ReadClip | _HeaderItem, count: int, part: str, workers: int) -> None:
    # In order and with checkpoints, so that an interrupted call continues and gives the same chunks.
    ordered = {"keep_data_ordered": True, "reorder_files": False, "use_checkpoint": True}
    process = {"start_method": "fork", "verbose": False}
    try:
        litdata().optimize(read, list(range(count)), part, chunk_bytes=CHUNK_BYTES, num_workers=workers, **ordered, **process)
    except ValueError:
        raise
    except Exception as error:  # the client of every object storage has its own exceptions
        # In a folder LitData continues an incomplete part; in object storage it takes it for a complete one.
        raise ValueError(f"{part} cannot be written ({first_line(error)}); if it exists incompletely, remove it first") from error


if __name__ == "__main__":
    run(stream_latents)
