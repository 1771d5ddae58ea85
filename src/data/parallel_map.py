"""Work on batches of documents on all cores, in order and a few batches ahead, so that memory stays bounded."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from src.runtime.subprocess_pool import guarded_pool

T = TypeVar("T")
R = TypeVar("R")

BATCH_ITEMS = 512
BATCH_CHARACTERS = 1_000_000
ALONE_S = 2.0
"""Work of so many seconds is done before processes are started: for less, starting them costs more than it gains."""
MOST_WORKERS = 4
"""Each has about 100 MB."""


def in_batches(items: Iterable[T], characters: Callable[[T], int]) -> Iterator[list[T]]:
    """Group items into batches of at most so many, or of so much text."""
    batch: list[T] = []
    size = 0
    for item in items:
        batch.append(item)
        size += characters(item)
        if len(batch) == BATCH_ITEMS or size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def map_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield what a function of nothing but its argument returns for each item, in their order."""
    items, spent = iter(items), 0.0
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    while workers == 1 or spent <= ALONE_S:
        for item in items:
            start = time.monotonic()
            result = function(item)
            spent += time.monotonic() - start
            yield result
            break
        else:
            return
    waiting: deque[Future[R]] = deque()
    with guarded_pool(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
