"""Find training documents that are near duplicates of held-out ones: val and test in an index, train streamed past it.

A split by repository does not part forks, nor copies of a file with another header, and a model would be tested on what
it has learned by heart. Only training documents are ever dropped: nothing is selected on val or test.

Memory holds the index, 384 bytes a held-out document, and a few batches. Documents are sketched, which is nearly all of
the work, by as many processes as there are cores; processes, because it is done in Python.
"""

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from src.data.near_duplicates import THRESHOLD, NearDuplicateIndex, Sketch, sketch
from src.data.splits import SPLITS, TRAIN
from src.data.spool import Spool

BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 1_000_000
ALONE_BYTES = 30_000_000
"""Up to here, starting processes would cost more than it gains."""
MOST_WORKERS = 4
"""Each has about 100 MB."""
MOST_EXAMPLES = 10


def find_leaks(spool: Spool, fate: np.ndarray, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the numbers of the training documents that are near duplicates of held-out ones, and a summary.

    folder: where the index may keep a temporary file.
    """
    held_out, leaking = array("Q"), array("Q")
    examples: list[tuple[int, int, float]] = []
    with NearDuplicateIndex(folder) as index, _sketches(spool) as sketched:
        for numbers, sketches in sketched(fate > TRAIN):
            held_out.extend(numbers)
            index.add_sketch(sketches)
        for numbers, sketches in sketched(fate == TRAIN):
            for number, near in zip(numbers, index.find_sketch(sketches), strict=True):
                if near is not None:
                    leaking.append(number)
                    examples.append((number, held_out[near[0]], near[1]))
            examples = sorted(examples, key=lambda example: -example[2])[:MOST_EXAMPLES]
    return np.array(leaking, dtype=np.int64), {
        "jaccard": THRESHOLD,
        "held_out": len(held_out),
        "found": len(leaking),
        "examples": _named(spool, fate, examples),
    }


@contextmanager
def _sketches(spool: Spool) -> Iterator[Callable[[np.ndarray], Iterator[tuple[list[int], Sketch]]]]:
    """Yield a function that sketches the documents of a choice, in batches, in processes where that is worth while."""
    workers = min(os.cpu_count() or 1, MOST_WORKERS) if spool.n_bytes > ALONE_BYTES else 1
    # Spawned, since a fork of a process with threads may hang; so __main__ has to be importable, as commands are.
    pool = ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else None

    def sketched(chosen: np.ndarray) -> Iterator[tuple[list[int], Sketch]]:
        if pool is None:
            yield from ((numbers, sketch(texts)) for numbers, texts in _batches(spool, chosen))
            return

        def done(numbers: list[int], sketches: Future[Sketch]) -> tuple[list[int], Sketch]:
            return numbers, sketches.result()

        waiting: deque[tuple[list[int], Future[Sketch]]] = deque()
        for numbers, texts in _batches(spool, chosen):
            waiting.append((numbers, pool.submit(sketch, texts)))
            if len(waiting) > 2 * workers:
                yield done(*waiting.popleft())
        yield from (done(*batch) for batch in waiting)

    with pool or nullcontext():
        yield sketched


def _batches(spool: Spool, chosen: np.ndarray) -> Iterator[tuple[list[int], list[str]]]:
    """Yield documents in batches, as numbers and texts."""
    numbers: list[int] = []
    texts: list[str] = []
    size = 0
    progress = tqdm(
        spool.texts(chosen), f"near duplicates, {spool.name}", int(chosen.sum()), False, unit=" documents", disable=None
    )
    for number, text in progress:
        numbers.append(number)
        texts.append(text)
        size += len(text)
        if len(texts) == BATCH_DOCUMENTS or size >= BATCH_CHARACTERS:
            yield numbers, texts
            numbers, texts, size = [], [], 0
    if texts:
        yield numbers, texts


def _named(spool: Spool, fate: np.ndarray, examples: list[tuple[int, int, float]]) -> list[dict[str, Any]]:
    """Tell where the documents of each example come from."""
    wanted = {number: 0 for example in examples for number in example[:2]}
    for first, records, _ in spool.blocks():
        for number in wanted:
            if first <= number < first + len(records):
                wanted[number] = int(records["origin"][number - first])
    lines = set(wanted.values())
    origins = {line: origin for line, origin in enumerate(spool.origins()) if line in lines} if lines else {}

    def name(number: int) -> str:
        origin = origins[wanted[number]]
        return ": ".join(origin[key] for key in ("group", "path") if key in origin) or f"document {number}"

    return [
        {"train": name(train), SPLITS[fate[held_out]]: name(held_out), "jaccard": round(similarity, 3)}
        for train, held_out, similarity in examples
    ]
