"""Find training documents that are near duplicates of held-out ones: val and test in an index, train streamed past it.

A split by repository does not part forks, nor copies of a file with another header, and a model would be tested on what
it has learned by heart. Only training documents are ever dropped: nothing is selected on val or test.

Memory holds the index, 384 bytes a held-out document, and a few batches. Documents are sketched, which is nearly all of
the work, by as many processes as there are cores; processes, because it is done in Python.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from src.data.filters.near_duplicates import THRESHOLD, NearDuplicateIndex, Sketch, sketch
from src.data.parallel_map import in_batches, map_ahead
from src.data.preparation.document_store import Spool
from src.data.preparation.splits import SPLITS, TRAIN

MOST_EXAMPLES = 10


def find_leaks(spool: Spool, fate: np.ndarray, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the numbers of the training documents that are near duplicates of held-out ones, and a summary.

    folder: where the index may keep a temporary file.
    """
    held_out, leaking = array("Q"), array("Q")
    examples: list[tuple[int, int, float]] = []
    with NearDuplicateIndex(folder) as index:
        for numbers, sketches in _sketches(spool, fate > TRAIN):
            held_out.extend(numbers)
            index.add_sketch(sketches)
        for numbers, sketches in _sketches(spool, fate == TRAIN):
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


def _sketches(spool: Spool, chosen: np.ndarray) -> Iterator[tuple[list[int], Sketch]]:
    """Sketch the documents of a choice; yield them in batches, with their numbers."""
    progress = tqdm(
        spool.texts(chosen), f"near duplicates, {spool.name}", int(chosen.sum()), False, unit=" documents", disable=None
    )
    return map_ahead(_sketch, in_batches(progress, characters=lambda document: len(document[1])))


def _sketch(batch: list[tuple[int, str]]) -> tuple[list[int], Sketch]:
    return [number for number, _ in batch], sketch([text for _, text in batch])


def _named(spool: Spool, fate: np.ndarray, examples: list[tuple[int, int, float]]) -> list[dict[str, Any]]:
    """Tell where the documents of each example come from, and how their texts begin."""
    found = spool.where({number for example in examples for number in example[:2]})

    def name(number: int) -> str:
        origin = found[number][0]
        return ": ".join(origin[key] for key in ("group", "path") if key in origin) or f"document {number}"

    return [
        {
            "train": name(train),
            SPLITS[fate[held_out]]: name(held_out),
            "jaccard": round(similarity, 3),
            "where": [found[train][1], found[held_out][1]],
            "excerpts": [found[train][2], found[held_out][2]],
        }
        for train, held_out, similarity in examples
    ]
