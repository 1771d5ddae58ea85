"""Decide what becomes of each document: which split it is in, or why it is left out.

The split is by group (a repository, a package; a story is a group of its own), never by line, so that no text of a
held-out group is seen in training. Or, for a corpus that is one long text, it is by position: its first part is for
training.

A corpus may have more documents than memory has room for what a dictionary keeps of them. So documents and groups are
known by hashes alone, and are taken in partitions by the leading bits of the hash: each is sorted by itself, and only a
byte a document is kept throughout.
"""

from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from src.config.schema import UserError
from src.data.dataset import SPLITS
from src.data.preparation.document_store import DocumentStore

TRAIN, VAL, TEST = range(3)
DUPLICATE, NEAR_DUPLICATE, BEYOND_MAX_TOKENS = -1, -2, -3
"""Left out: said before; too near to a held-out document; read after `max_tokens` were reached."""
PARTITION = 1 << 20
"""Documents or groups that are sorted at once, about."""


class Groups(NamedTuple):
    """Some of the groups, by ascending hash."""

    hashes: np.ndarray
    sizes: np.ndarray
    """Bytes of each."""


def find_duplicates(store: DocumentStore) -> np.ndarray:
    """Return what becomes of each document, (n_documents,) int8: DUPLICATE where an earlier one says the same.

    Generated documents are never duplicates: their exact entropy holds for the text as drawn.
    """
    split_assignment = np.zeros(len(store), dtype=np.int8)
    for part, shift in _partitions(len(store)):
        numbers, digests = [], []
        for first, records, _ in store.blocks():
            rows = np.flatnonzero(np.isnan(records["bits"]) & _in_partition(records["digest"][:, 0], part, shift))
            again = _find_repeated(
                records["digest"][rows]
            )  # within the block, so that one text cannot fill the partition
            split_assignment[first + rows[again]] = DUPLICATE
            numbers.append(first + rows[~again])
            digests.append(records["digest"][rows[~again]])
        split_assignment[np.concatenate(numbers)[_find_repeated(np.concatenate(digests))]] = DUPLICATE
    return split_assignment


def _find_repeated(digests: np.ndarray) -> np.ndarray:
    """Tell of each digest, (n, 2), whether it is there earlier: (n,) bool."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal ones stay in their order
    ordered = digests[order]
    repeated = np.zeros(len(digests), dtype=bool)
    repeated[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return repeated


def _partitions(n: int) -> Iterator[tuple[int, int]]:
    """Part n hashes into about `PARTITION` each, as (number, shift): a hash shifted right is its part's number."""
    bits = max(0, (n - 1) // PARTITION).bit_length()
    for part in range(2**bits):
        yield part, 64 - bits


def _in_partition(hashes: np.ndarray, part: int, shift: int) -> np.ndarray | bool:
    return shift == 64 or hashes >> np.uint64(shift) == part


def iterate_groups(store: DocumentStore, split_assignment: np.ndarray) -> Iterator[Groups]:
    """Yield all groups of the documents that are left, in the order of their hashes, a partition at a time."""
    for part, shift in _partitions(len(store)):
        hashes, sizes = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
        for first, records, n_bytes in store.blocks():
            rows = (split_assignment[first : first + len(records)] >= 0) & _in_partition(records["group"], part, shift)
            some = _sum_by_group(records["group"][rows], n_bytes[rows])  # a group may have more documents than memory
            hashes.append(some.hashes)
            sizes.append(some.sizes)
        yield _sum_by_group(np.concatenate(hashes), np.concatenate(sizes))


def _sum_by_group(hashes: np.ndarray, sizes: np.ndarray) -> Groups:
    unique, inverse = np.unique(hashes, return_inverse=True)
    totals = np.zeros(len(unique), dtype=np.int64)
    np.add.at(totals, inverse, sizes)
    return Groups(unique, totals)


def split_groups(
    groups: Callable[[], Iterator[Groups]], val_fraction: float, test_fraction: float, key: str
) -> dict[int, np.ndarray]:
    """Choose the groups of val and test, as sorted hashes; all others are for training.

    Groups are walked in the order of their hash, and each goes to the held-out split with more room left, if it fits
    there. So a split is filled close to its fraction and never beyond, and a group larger than that can only be
    training text. A first walk takes groups of up to half the room, so that a split holds several of them rather than
    one that happens to fit; the second fills what is left. Where all groups are too large, the smallest one is moved,
    since a split may not be empty.

    Raises: UserError for fewer than three groups, or fractions that leave no room.
    """
    n_groups = total = 0
    for some in groups():
        n_groups, total = n_groups + len(some.hashes), total + int(some.sizes.sum())
    if n_groups < len(SPLITS):
        raise UserError(
            f"{key}: {n_groups} group(s) of documents cannot fill train, val and test (none is shared); "
            f"give more files, separate the texts of a .txt by <|endoftext|> or {key}.separator, "
            f"vary `source` in a .jsonl, or raise {key}.max_bytes"
        )
    if min(val_fraction, test_fraction) <= 0 or val_fraction + test_fraction >= 1:
        raise UserError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}: "
            "both must be above 0 and together below 1"
        )
    room = {VAL: val_fraction * total, TEST: test_fraction * total}
    chosen = {VAL: array("Q"), TEST: array("Q")}
    for share in (0.5, 1.0):
        for some in groups():
            _fill_splits(some, share, room, chosen)
    for target in room:
        if not chosen[target]:
            split, group = _find_smallest_movable(groups, n_groups, chosen)
            if split != TRAIN:
                chosen[split].remove(group)
            chosen[target].append(group)
    return {target: np.sort(np.array(chosen[target], dtype=np.uint64)) for target in room}


def _fill_splits(some: Groups, share: float, room: dict[int, float], chosen: "dict[int, array[int]]") -> None:
    """Put the groups that fit into the held-out split with more room left, counting down `room`."""
    fitting = np.flatnonzero((_assigned_splits(some, chosen) == TRAIN) & (some.sizes <= share * max(room.values())))
    for group, size in zip(some.hashes[fitting].tolist(), some.sizes[fitting].tolist(), strict=True):
        target = max(room, key=lambda name: room[name])
        if size <= share * room[target]:
            chosen[target].append(group)
            room[target] -= size


def _assigned_splits(some: Groups, chosen: "dict[int, array[int]]") -> np.ndarray:
    split = np.full(len(some.hashes), TRAIN)
    for target, hashes in chosen.items():
        split[np.isin(some.hashes, np.array(hashes, dtype=np.uint64))] = target
    return split


def _find_smallest_movable(
    groups: Callable[[], Iterator[Groups]], n_groups: int, chosen: "dict[int, array[int]]"
) -> tuple[int, int]:
    """Find (split, hash) of the smallest group that is not the only one of its split."""
    counts = {target: len(hashes) for target, hashes in chosen.items()}
    counts[TRAIN] = n_groups - sum(counts.values())

    def candidates() -> Iterator[tuple[int, int, int]]:
        for some in groups():
            split = _assigned_splits(some, chosen)
            for row in np.flatnonzero([counts[number] > 1 for number in split.tolist()]).tolist():
                yield int(some.sizes[row]), int(some.hashes[row]), int(split[row])

    _, group, split = min(candidates())
    return split, group


def split_positions(n_bytes: int, val_fraction: float, test_fraction: float) -> list[int]:
    """Return where val and test begin, in bytes of a corpus of `n_bytes`."""
    val, test = (Fraction(str(fraction)) for fraction in (val_fraction, test_fraction))
    return [int(part * n_bytes) for part in (1 - val - test, 1 - test)]


def assign_by_position(
    store: DocumentStore, split_assignment: np.ndarray, places: list[int], key: str, with_test: bool
) -> None:
    """Write the split of each remaining document into `split_assignment`; val and test begin at `places`.

    Raises: UserError where a split has no text.
    """
    for first, records, _ in store.blocks():
        some = split_assignment[first : first + len(records)]
        some[some >= 0] = np.searchsorted(places, records["end"])[some >= 0]
    for number, name in enumerate(SPLITS):
        if not (split_assignment == number).any() and (number != TEST or with_test):
            raise UserError(
                f"data.split=position: no text of {key} falls into {name}; give more text, or a larger "
                f"{'data.test_fraction' if number == TEST else 'data.val_fraction'}"
            )


def count_groups(store: DocumentStore, split_assignment: np.ndarray) -> dict[str, int]:
    """Count the groups that each split has documents of."""
    return {
        name: sum(
            len(some.hashes) for some in iterate_groups(store, np.where(split_assignment == number, 0, DUPLICATE))
        )
        for number, name in enumerate(SPLITS)
    }


def assign_groups(store: DocumentStore, split_assignment: np.ndarray, held_out: dict[int, np.ndarray]) -> None:
    """Write the split of each remaining document into `split_assignment`."""
    for first, records, _ in store.blocks():
        some = split_assignment[first : first + len(records)]
        for target, hashes in held_out.items():
            some[(some >= 0) & np.isin(records["group"], hashes)] = target
