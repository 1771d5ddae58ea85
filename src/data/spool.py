"""Cleaned documents on disk with an index in memory, between the one reading of a corpus and its packing.

The split needs the size of every group before the first token is written, and the tokenizer needs a sample of the
training text before that. Reading the source twice would be slower, and wrong if a file changed in between.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from src.data.clean import digest
from src.data.loader import mix
from src.data.sources import Document


class Spool:
    """The documents of one corpus, in the order in which they were read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.licences: Counter[str] = Counter()
        self.group_names: list[str] = []
        self.named: set[str] = set()
        """Groups that the source named; the others are documents by themselves."""
        self._ends = array("q", [0])
        self._groups = array("q")
        self._bits = array("d")
        self._group_index: dict[str, int] = {}

    def fill(self, documents: Iterable[Document]) -> None:
        """Write all documents."""
        with self.path.open("wb") as handle:
            for document in documents:
                data = document.text.encode()
                handle.write(data)
                self._ends.append(self._ends[-1] + len(data))
                self._groups.append(self._group(document))
                self._bits.append(float("nan") if document.bits is None else document.bits)
                self.licences[document.licence] += 1

    def _group(self, document: Document) -> int:
        if document.group is None:  # texts are unique by now, so this group is new
            self.group_names.append(digest(document.text).hex())
            return len(self.group_names) - 1
        if document.group not in self._group_index:
            self._group_index[document.group] = len(self.group_names)
            self.group_names.append(document.group)
            self.named.add(document.group)
        return self._group_index[document.group]

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each document: (n_documents,) int64."""
        return np.diff(np.asarray(self._ends, dtype=np.int64))

    @property
    def groups(self) -> np.ndarray:
        """Index into `group_names` of each document: (n_documents,) int64."""
        return np.asarray(self._groups, dtype=np.int64)

    @property
    def bits(self) -> np.ndarray:
        """-log2 p of each document, nan where it is not known: (n_documents,) float64."""
        return np.asarray(self._bits, dtype=np.float64)

    def group_sizes(self) -> dict[str, int]:
        """Sum the bytes of each group."""
        totals = np.bincount(self.groups, weights=self.sizes, minlength=len(self.group_names))
        return {name: int(total) for name, total in zip(self.group_names, totals, strict=True)}

    def batches(self, max_bytes: int) -> Iterator[tuple[range, list[str]]]:
        """Yield runs of documents of about `max_bytes` together, as (indices, texts)."""
        with self.path.open("rb") as handle:
            first = 0
            for index in range(len(self)):
                if self._ends[index + 1] - self._ends[first] >= max_bytes or index == len(self) - 1:
                    documents = range(first, index + 1)
                    yield documents, [handle.read(self._ends[i + 1] - self._ends[i]).decode() for i in documents]
                    first = index + 1

    def sample(self, chosen: np.ndarray, n_bytes: int) -> Iterator[str]:
        """Yield `n_bytes` of text from the documents where `chosen` (bool) holds, scattered over the corpus."""
        indices = np.flatnonzero(chosen)
        indices = indices[np.argsort(mix(indices.astype(np.uint64)), kind="stable")]
        with self.path.open("rb") as handle:
            for index in indices.tolist():
                handle.seek(self._ends[index])
                data = handle.read(min(self._ends[index + 1] - self._ends[index], n_bytes))
                n_bytes -= len(data)
                yield data.decode(errors="ignore")  # the last one may be cut within a character
                if n_bytes <= 0:
                    return
