"""Many files at once, with a word now and then about how far it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# Seconds from one message to the next.
PATIENCE = 5.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, log: logging.Logger
) -> Generator[tuple[Item, Result], None, None]:
    """Every item with what a function makes of it, in their order; what has not begun when the caller stops never begins.

    Args:
        function: Called in threads.
        items: What to call it with.
        workers: Number of threads.
        log: Where to tell how far it is.
    """
    started = said = time.monotonic()
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        tasks = [pool.submit(function, item) for item in items]
        for done, (item, task) in enumerate(zip(items, tasks, strict=True), start=1):
            yield item, task.result()
            now = time.monotonic()
            if now - said > PATIENCE:
                said, left = now, (now - started) / done * (len(items) - done)
                log.info("%d of %d files, about %.0f s left", done, len(items), left)
    finally:
        pool.shutdown(cancel_futures=True)
