"""Cleaned documents on disk, between the one reading of a corpus and its packing.

The split needs the size of every group before the first token is written, and the tokenizer needs a sample of the
training text before that. Reading the source twice would be slower, and wrong if a file changed in between.

    <corpus>.text     all texts, end to end         <corpus>.index    a `RECORD` a document
    <corpus>.origins  where they come from, as JSON, a line for each run of documents of one origin

Texts, index and origins are only ever streamed, so that memory does not grow with the corpus. What decides the fate of
a document is made of its text or its group's name alone, by hashes: nothing depends on how documents are numbered.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.data.sources import Document

RECORD = np.dtype(
    [("end", "<u8"), ("digest", "<u8", (2,)), ("group", "<u8"), ("origin", "<u4"), ("words", "<u4"), ("bits", "<f8")]
)
"""Where the text ends; hash of the text; hash of the group's name and the seed; line of the origins; words, as white
space parts them; -log2 p, or nan where it is not known."""
PACK = struct.Struct("<Q16s8sIId").pack
ORIGIN = ("group", "path", "licence", "revision")
BLOCK = 1 << 16
"""Records of the index that are read at once."""


class Spool:
    """The documents of one corpus, in the order in which they were read."""

    def __init__(self, stem: Path) -> None:
        self.name = stem.name
        self.text_path, self.index_path, self.origins_path = (
            stem.with_name(f"{stem.name}.{part}") for part in ("text", "index", "origins")
        )

    def fill(self, documents: Iterable[Document], seed: int) -> None:
        """Write all documents; the seed decides how groups are spread over the split."""
        end, n_origins, last = 0, 0, None
        key = str(seed).encode()
        with (
            self.text_path.open("wb") as texts,
            self.index_path.open("wb") as index,
            self.origins_path.open("w", encoding="utf-8") as origins,
        ):
            for document in documents:
                data = document.text.encode()
                digest = hashlib.blake2b(data, digest_size=16).digest()
                name = digest if document.group is None else document.group.encode()
                group = hashlib.blake2b(name, digest_size=8, key=key).digest()
                origin = (document.group, document.path, document.licence, document.revision)
                if origin != last:
                    last, n_origins = origin, n_origins + 1
                    row = dict(zip(ORIGIN, origin, strict=True))
                    origins.write(json.dumps({key: value for key, value in row.items() if value}) + "\n")
                end += len(data)
                bits = float("nan") if document.bits is None else document.bits
                texts.write(data)
                index.write(PACK(end, digest, group, n_origins - 1, len(document.text.split()), bits))

    def __len__(self) -> int:
        return self.index_path.stat().st_size // RECORD.itemsize

    @property
    def n_bytes(self) -> int:
        """Bytes of all texts."""
        return self.text_path.stat().st_size

    def blocks(self, start: int = 0) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Stream the index from a document on, as (number of the first, records, bytes of each)."""
        with self.index_path.open("rb") as handle:
            before = 0
            if start:
                handle.seek((start - 1) * RECORD.itemsize)
                before = int(np.fromfile(handle, RECORD, 1)["end"][0])
            while len(records := np.fromfile(handle, RECORD, BLOCK)):
                yield start, records, np.diff(records["end"], prepend=np.uint64(before)).astype(np.int64)
                start, before = start + len(records), int(records["end"][-1])

    def origins(self) -> Iterator[dict[str, Any]]:
        """Stream the origins: `group` and `revision` where there is one, `path`, `licence`."""
        with self.origins_path.open(encoding="utf-8") as handle:
            yield from map(json.loads, handle)

    def texts(self, chosen: np.ndarray, start: int = 0) -> Iterator[tuple[int, str]]:
        """Stream the documents where `chosen` (bool, one a document) holds, from a document on, with their numbers."""
        with self.text_path.open("rb") as handle:
            for first, records, sizes in self.blocks(start):
                ends = records["end"].tolist()
                for row in np.flatnonzero(chosen[first : first + len(records)]).tolist():
                    size = int(sizes[row])
                    handle.seek(ends[row] - size)  # within the buffer, unless much is left out
                    yield first + row, handle.read(size).decode()

    def sample(self, chosen: np.ndarray, n_bytes: int) -> Iterator[str]:
        """Yield `n_bytes` of text of the documents where `chosen` (bool) holds, in the order of a hash of the text."""
        with self.text_path.open("rb") as handle:
            for end, size in self._sampled(chosen, n_bytes):
                handle.seek(end - size)
                data = handle.read(min(size, n_bytes))
                n_bytes -= len(data)
                yield data.decode(errors="ignore")  # the last one may be cut within a character
                if n_bytes <= 0:
                    return

    def _sampled(self, chosen: np.ndarray, n_bytes: int) -> list[tuple[int, int]]:
        """List (end, bytes) of the documents of lowest hash that have `n_bytes` together, if all have."""
        for bits in range(44, 65):  # no more than about twice what is asked for is ever held
            found = []
            for first, records, sizes in self.blocks():
                hashes = records["digest"][:, 1]
                low = chosen[first : first + len(records)] & ((hashes >> np.uint64(bits)) == 0 if bits < 64 else True)
                found.append(np.stack([hashes[low], records["end"][low], sizes[low].astype(np.uint64)]))
            order, ends, sizes = np.concatenate(found, axis=1)
            if int(sizes.sum()) >= n_bytes:
                break
        by_hash = np.argsort(order, kind="stable")
        return list(zip(ends[by_hash].tolist(), sizes[by_hash].tolist(), strict=True))

    def remove(self) -> None:
        """Delete the files."""
        for path in (self.text_path, self.index_path, self.origins_path):
            path.unlink(missing_ok=True)
