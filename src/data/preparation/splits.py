"""Assign each document to a split, or leave it out with a reason.

The split is by group (a repository, a package; each story is its own group), never by line, so that no text of a
held-out group is in training. A corpus that is one long text can be split by position instead; its first part is for
training.

A corpus may have too many documents for a dictionary in memory. So documents and groups are identified by hashes and
processed in partitions by the leading bits of the hash. Each partition is sorted separately; only one byte per document
is kept throughout: the split assignment.
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
"""Reasons for leaving a document out: exact duplicate; near duplicate of held-out text; after `max_tokens`."""
PARTITION = 1 << 20
"""Approximate number of documents or groups that are sorted at a time."""


class Groups(NamedTuple):
    """Some of the groups, in ascending order of their hashes."""

    hashes: np.ndarray
    sizes: np.ndarray
    """Bytes of each."""


def find_duplicates(store: DocumentStore) -> np.ndarray:
    """Return the initial split assignment, (n_documents,) int8: DUPLICATE where an earlier text is equal, else 0.

    Generated documents are never duplicates, because their exact entropy holds for independent draws.
    """
    split_assignment = np.zeros(len(store), dtype=np.int8)
    for part, shift in _iterate_partitions(len(store)):
        numbers, digests = [], []
        for first, records, _ in store.blocks():
            rows = np.flatnonzero(np.isnan(records["bits"]) & _in_partition(records["digest"][:, 0], part, shift))
            again = _find_repeated(records["digest"][rows])  # in the block, so that one text cannot fill the partition
            split_assignment[first + rows[again]] = DUPLICATE
            numbers.append(first + rows[~again])
            digests.append(records["digest"][rows[~again]])
        split_assignment[np.concatenate(numbers)[_find_repeated(np.concatenate(digests))]] = DUPLICATE
    return split_assignment


def _find_repeated(digests: np.ndarray) -> np.ndarray:
    """Return for each digest, (n, 2), whether an earlier one is equal: (n,) bool."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable, so equal digests stay in their order
    ordered = digests[order]
    repeated = np.zeros(len(digests), dtype=bool)
    repeated[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return repeated


def _iterate_partitions(n: int) -> Iterator[tuple[int, int]]:
    """Divide n hashes into partitions of about `PARTITION`, as (number, shift): hash >> shift is the number."""
    bits = max(0, (n - 1) // PARTITION).bit_length()
    for part in range(2**bits):
        yield part, 64 - bits


def _in_partition(hashes: np.ndarray, part: int, shift: int) -> np.ndarray | bool:
    return shift == 64 or hashes >> np.uint64(shift) == part


def iterate_groups(store: DocumentStore, split_assignment: np.ndarray) -> Iterator[Groups]:
    """Yield all groups of the remaining documents in the order of their hashes, one partition at a time."""
    for part, shift in _iterate_partitions(len(store)):
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
    """Choose the groups of val and test, as sorted hashes; all other groups are for training.

    Groups are visited in the order of their hash. Each goes to the held-out split with more remaining capacity if it
    fits, so a split comes close to its fraction and never exceeds it. A first pass takes groups of up to half the
    remaining capacity, so that a split holds several groups; a second pass fills the rest. If no group fits, the
    smallest one is moved, because a split may not be empty.

    val_fraction, test_fraction: above 0, and their sum below 1; `check_data` checks them.
    Raises: UserError for fewer than three groups.
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
    """Add each group that fits to the held-out split with more capacity, and reduce `room` by its size."""
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
    """Return (split, hash) of the smallest group that is not the only one of its split."""
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
    """Return the positions at which val and test begin, in bytes of a corpus of `n_bytes`."""
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
    """Count the groups of each split."""
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
