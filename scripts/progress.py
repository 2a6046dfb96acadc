"""Parallel map over files with a progress bar."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Generator[tuple[Item, Result], None, None]:
    """Yield every item with the result of ``function``, in order; when the generator is closed, items not yet started are dropped.

    Processes rather than threads, because libav counts errors per process (see ``datamodules.decoding.frames``).

    Args:
        function: A function that can be pickled.
        items: Its arguments.
        workers: Number of processes; one works in the calling process.
    """
    if workers <= 1:
        yield from ((item, function(item)) for item in tqdm(items, unit="file", disable=None))
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker)
    try:
        yield from tqdm(zip(items, pool.map(function, items), strict=True), total=len(items), unit="file", disable=None)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and the cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
