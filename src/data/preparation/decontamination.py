"""Find training documents that are near duplicates of held-out ones.

A split by repository does not separate forks, or copies of a file with another header, so a model could be tested on
text that it was trained on. Val and test are indexed, and the training documents are looked up. Only training documents
are dropped; val and test stay as they are.

Memory holds the index (384 bytes per held-out document) and a few batches. Nearly all time goes into sketching, which
runs in parallel processes.
"""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from src.data.filters.near_duplicates import THRESHOLD, NearDuplicateIndex, Sketch, sketch_texts
from src.data.parallel_map import group_into_batches, parallel_map
from src.data.preparation.document_store import DocumentStore
from src.data.preparation.splits import SPLITS, TRAIN

MAX_EXAMPLES = 10


def find_leaks(store: DocumentStore, split_assignment: np.ndarray, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the numbers of training documents that are near duplicates of held-out ones, and a summary.

    folder: for a temporary file of the index.
    """
    held_out, leaking = array("Q"), array("Q")
    examples: list[tuple[int, int, float]] = []
    with NearDuplicateIndex(folder) as index:
        for numbers, sketches in _sketch_chosen(store, split_assignment > TRAIN):
            held_out.extend(numbers)
            index.add(sketches)
        for numbers, sketches in _sketch_chosen(store, split_assignment == TRAIN):
            for number, near in zip(numbers, index.find(sketches), strict=True):
                if near is not None:
                    leaking.append(number)
                    examples.append((number, held_out[near[0]], near[1]))
            examples = sorted(examples, key=lambda example: -example[2])[:MAX_EXAMPLES]
    return np.array(leaking, dtype=np.int64), {
        "jaccard": THRESHOLD,
        "held_out": len(held_out),
        "found": len(leaking),
        "examples": _describe_examples(store, split_assignment, examples),
    }


def _sketch_chosen(store: DocumentStore, chosen: np.ndarray) -> Iterator[tuple[list[int], Sketch]]:
    """Yield the sketches of the chosen documents in batches, with their numbers."""
    progress = tqdm(
        store.texts(chosen), f"near duplicates, {store.name}", int(chosen.sum()), False, unit=" documents", disable=None
    )
    return parallel_map(_sketch_batch, group_into_batches(progress, characters=lambda document: len(document[1])))


def _sketch_batch(batch: list[tuple[int, str]]) -> tuple[list[int], Sketch]:
    return [number for number, _ in batch], sketch_texts([text for _, text in batch])


def _describe_examples(
    store: DocumentStore, split_assignment: np.ndarray, examples: list[tuple[int, int, float]]
) -> list[dict[str, Any]]:
    """Describe the origin and the beginning of the documents of each example."""
    found = store.locate({number for example in examples for number in example[:2]})

    def name(number: int) -> str:
        origin = found[number][0]
        return ": ".join(origin[key] for key in ("group", "path") if key in origin) or f"document {number}"

    return [
        {
            "train": name(train),
            SPLITS[split_assignment[held_out]]: name(held_out),
            "jaccard": round(similarity, 3),
            "where": [found[train][1], found[held_out][1]],
            "excerpts": [found[train][2], found[held_out][2]],
        }
        for train, held_out, similarity in examples
    ]
