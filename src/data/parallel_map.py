"""Map a function over batches of documents on all cores, in order and with bounded memory."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from src.runtime.subprocess_pool import make_process_pool

T = TypeVar("T")
R = TypeVar("R")

BATCH_ITEMS = 512
BATCH_CHARACTERS = 1_000_000
SERIAL_SECONDS = 2.0
"""Seconds of work in this process before others are started; for less work, starting them does not pay."""
MAX_WORKERS = 4
"""Each needs about 100 MB."""


def group_into_batches(
    items: Iterable[T], characters: Callable[[T], int], max_characters: int | None = None, max_items: int | None = None
) -> Iterator[list[T]]:
    """Group items into batches of up to `max_items`, which end with the item that reaches `max_characters`.

    The defaults are `BATCH_ITEMS` and `BATCH_CHARACTERS`.
    """
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += characters(item)
        if len(batch) == (max_items or BATCH_ITEMS) or size >= (max_characters or BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def parallel_map(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield the result of a pure function for each item, in order; at most a few items are read ahead."""
    items, spent = iter(items), 0.0
    workers = min(os.cpu_count() or 1, MAX_WORKERS)
    while workers == 1 or spent <= SERIAL_SECONDS:
        for item in items:
            start = time.monotonic()
            result = function(item)
            spent += time.monotonic() - start
            yield result
            break
        else:
            return
    waiting: deque[Future[R]] = deque()
    with make_process_pool(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
