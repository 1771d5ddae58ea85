"""Find near duplicates: documents that share most of their text, such as forks and copies with a new header.

Two documents are near duplicates if their sets of word 5-grams (*shingles*) have a Jaccard similarity of at least 0.7,
as in The Stack (Kocetkov et al., 2022, arXiv 2211.15533). Comparing all pairs would be too slow, so:

    MinHash (Broder, 1997)  256 numbers per document; two documents agree in one with probability = Jaccard similarity
    bands (LSH)             32 bands of 8 numbers; documents that agree in a whole band are candidates:
                            99.7% of the pairs at 0.8, 85% at 0.7, 2% at 0.4
    verification            candidates are compared by their shingles, so that nothing is dropped by chance

An index holds only the bands in memory, 384 bytes per document; shingles are in a temporary file.
"""

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
from rensa import RMinHash  # pyright: ignore[reportAttributeAccessIssue]

from src.data.document import Document, drop_document
from src.data.hashing import splitmix64

THRESHOLD = 0.7
SHINGLE_WORDS = 5
N_PERMUTATIONS = 256
N_BANDS = 32
SEED = 1
MAX_BUCKET_SIZE = 64
"""Documents of one band that are compared; documents in larger buckets share other bands too."""
WORD = re.compile(r"\w+")
POSITION_FACTORS = splitmix64(np.arange(SHINGLE_WORDS, dtype=np.uint64)) | np.uint64(1)
"""An odd factor for each position in a shingle, so that the sum depends on the order of words."""


class _WordHashes(dict[str, int]):
    """Cached hashes of words, equal in every process."""

    LIMIT = 1_000_000

    def __missing__(self, word: str) -> int:
        if len(self) >= self.LIMIT:
            self.clear()
        self[word] = value = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return value


_WORD_HASHES = _WordHashes()


@dataclass(frozen=True)
class Sketch:
    """The shingles and MinHash bands of some documents."""

    shingles: list[np.ndarray]
    """The shingles of each as sorted uint32 hashes."""
    bands: np.ndarray
    """(n_documents, N_BANDS) uint64."""


def sketch_texts(texts: Sequence[str]) -> Sketch:
    """Compute the shingles and MinHash bands of each text. A text of fewer than 5 words is one shingle."""
    hashes, ends = _hash_shingles(texts)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, ends, num_perm=N_PERMUTATIONS, seed=SEED)
    digests = np.array(matrix.to_rows(), dtype=np.uint64).reshape(len(texts), N_BANDS, N_PERMUTATIONS // N_BANDS)
    bands = np.broadcast_to(np.arange(N_BANDS, dtype=np.uint64), digests.shape[:2])
    for column in range(digests.shape[2]):
        bands = splitmix64(bands ^ digests[:, :, column])
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    return Sketch([np.unique(short[start:end]) for start, end in pairwise(ends)], bands)


def _hash_shingles(texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """Hash each run of 5 words of each text. Returns all hashes, (n,) uint64, and the boundaries of the texts."""
    codes: list[int] = []
    ends = [0]
    for text in texts:
        if words := WORD.findall(text):
            codes += map(_WORD_HASHES.__getitem__, words)
            codes += [0] * (SHINGLE_WORDS - len(words))
        ends.append(len(codes))
    sums = np.array([*codes, *[0] * SHINGLE_WORDS], dtype=np.uint64)
    sums = sum(sums[place : place + len(codes)] * factor for place, factor in enumerate(POSITION_FACTORS))
    # The last runs of a text extend into the next text, so they are not shingles.
    whole = np.ones(len(codes), dtype=bool)
    for end in set(ends[1:]):
        whole[end - SHINGLE_WORDS + 1 : end] = False
    return splitmix64(np.asarray(sums)[whole]), np.concatenate([[0], np.cumsum(whole)])[ends].tolist()


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Jaccard similarity of two sorted sets; 0 if one is empty."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common) if common else 0.0


class NearDuplicateIndex:
    """An index of documents, numbered in the order of addition, for finding near duplicates.

    folder: for the temporary file of shingles; None: the system's folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (open for as long as the index is)
        self._ends = [0]
        self._runs: list[tuple[np.ndarray, np.ndarray]] = []
        """Sorted bands and the numbers of their documents; each run is more than twice as long as the next."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, new: Sketch) -> None:
        """Add documents; best a few hundred at a time, because each call sorts."""
        numbers = np.repeat(np.arange(len(self), len(self) + len(new.shingles), dtype=np.uint32), N_BANDS)
        self._file.seek(4 * self._ends[-1])
        for shingles in new.shingles:
            self._file.write(shingles.tobytes())
            self._ends.append(self._ends[-1] + len(shingles))
        keys = new.bands.ravel()
        if not len(keys):
            return
        while True:
            order = np.argsort(keys, kind="stable")
            keys, numbers = keys[order], numbers[order]
            if not self._runs or len(self._runs[-1][0]) > 2 * len(keys):
                break
            older, their_numbers = self._runs.pop()
            keys, numbers = np.concatenate([older, keys]), np.concatenate([their_numbers, numbers])
        self._runs.append((keys, numbers))

    def find(self, wanted: Sketch) -> list[tuple[int, float] | None]:
        """Return for each document the first near duplicate in the index as (number, similarity), or None."""
        candidates: list[set[int]] = [set() for _ in wanted.shingles]
        order = np.argsort(wanted.bands.ravel())  # searchsorted is several times faster on sorted values
        bands = wanted.bands.ravel()[order]
        for keys, numbers in self._runs:
            places = np.searchsorted(keys, bands)
            places[places == len(keys)] = 0  # above the largest key: any index with another key
            for hit in np.flatnonzero(keys[places] == bands).tolist():
                first = places[hit]
                bucket = keys[first : first + MAX_BUCKET_SIZE] == bands[hit]
                candidates[order[hit] // N_BANDS].update(numbers[first : first + MAX_BUCKET_SIZE][bucket].tolist())
        return [self._verify(wanted.shingles[row], found) for row, found in enumerate(candidates)]

    def _verify(self, shingles: np.ndarray, candidates: set[int]) -> tuple[int, float] | None:
        for number in sorted(candidates):
            start, end = self._ends[number : number + 2]
            self._file.seek(4 * start)
            theirs = np.frombuffer(self._file.read(4 * (end - start)), dtype=np.uint32)
            if (similarity := jaccard(shingles, theirs)) >= THRESHOLD:
                return number, similarity
        return None


def drop_near_duplicates(
    sketched: Iterable[tuple[list[Document], Sketch]], dropped: Counter[str]
) -> Iterator[Document]:
    """Yield the documents of sketched batches that are not near duplicates of an earlier document."""
    with NearDuplicateIndex() as index:
        for batch, sketches in sketched:
            yield from _drop_from_batch(batch, sketches, index, dropped)


def _drop_from_batch(
    batch: list[Document], sketches: Sketch, index: NearDuplicateIndex, dropped: Counter[str]
) -> Iterator[Document]:
    """Compare a batch with the index and within itself; add the remaining documents to the index."""
    known = index.find(sketches)
    buckets: dict[int, list[int]] = {}
    kept: list[int] = []
    for row, document in enumerate(batch):
        bands = sketches.bands[row].tolist()
        near = known[row] is not None or any(
            jaccard(sketches.shingles[row], sketches.shingles[other]) >= THRESHOLD
            for other in {other for band in bands for other in buckets.get(band, ())}
        )
        if near:
            drop_document(dropped, "near duplicate", document)
            continue
        kept.append(row)
        for band in bands:
            buckets.setdefault(band, []).append(row)
        yield document
    index.add(Sketch([sketches.shingles[row] for row in kept], sketches.bands[kept]))
