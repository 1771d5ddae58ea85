"""Cleaned documents on disk, between reading a corpus and packing it.

The split needs the size of every group, and the tokenizer a sample of the training text, before the first token is
written. Reading the source twice would be slower, and wrong if a file changed in between.

    <corpus>.text     all texts, concatenated       <corpus>.index    one `RECORD` per document
    <corpus>.origins  their origins as JSON, one line for each run of documents of the same origin

Texts, index and origins are streamed, so memory does not grow with the corpus.
"""

import hashlib
import json
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from src.data.document import Document, format_location
from src.data.hashing import splitmix64

RECORD = np.dtype(
    [
        ("end", "<u8"),
        ("digest", "<u8", (2,)),
        ("group", "<u8"),
        ("origin", "<u4"),
        ("words", "<u4"),
        ("bits", "<f8"),
        ("place", "<u8"),
    ]
)
"""End of the text in bytes; hash of the text; hash of group name and seed; line of the origins; words, separated by
white space; -log2 p, or nan if unknown; line or record number in its file."""
PACK = struct.Struct("<Q16sQIIdQ").pack
ORIGIN = ("group", "path", "licence", "revision", "file")
EXCERPT = 60
"""Characters of an excerpt."""
BLOCK = 1 << 16
"""Records of the index that are read at a time."""


class DocumentStore:
    """The documents of one corpus in reading order."""

    def __init__(self, stem: Path) -> None:
        self.name = stem.name
        self.text_path, self.index_path, self.origins_path = (
            stem.with_name(f"{stem.name}.{part}") for part in ("text", "index", "origins")
        )

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        """The files of the store."""
        return self.text_path, self.index_path, self.origins_path

    def write(self, documents: Iterable[Document], seed: int) -> None:
        """Write all documents; the seed goes into the hash of each group, by which groups are split."""
        end, n_origins, last = 0, 0, None
        with (
            self.text_path.open("wb") as texts,
            self.index_path.open("wb") as index,
            self.origins_path.open("w", encoding="utf-8") as origins,
        ):
            for number, document in enumerate(documents):
                data = document.text.encode()
                digest = hashlib.blake2b(data, digest_size=16).digest()
                name = document.group
                if name is None:  # its own group; generated documents may be equal, but are independent draws
                    name = digest.hex() if document.bits is None else str(number)
                group = hashlib.blake2b(f"{seed}\0{name}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
                origin = (document.group, document.path, document.license, document.revision, document.file)
                if origin != last:
                    last, n_origins = origin, n_origins + 1
                    row = dict(zip(ORIGIN, origin, strict=True))
                    origins.write(json.dumps({key: value for key, value in row.items() if value}) + "\n")
                end += len(data)
                bits = float("nan") if document.bits is None else document.bits
                texts.write(data)
                index.write(
                    PACK(
                        end,
                        digest,
                        int.from_bytes(group[:8]),
                        n_origins - 1,
                        len(document.text.split()),
                        bits,
                        document.place,
                    )
                )

    def cut_positions(self, positions: Sequence[int]) -> list[int]:
        """Return the possible cuts of the text nearest to ascending positions in bytes.

        A position within a character moves to the start of the character. A position within a generated document moves
        to the end of the document, because its exact entropy is that of the whole document.
        """
        places = list(positions)
        with self.text_path.open("rb") as texts:
            for _, records, sizes in self.blocks():
                ends = records["end"].astype(np.int64)
                starts = ends - sizes
                for i, place in enumerate(positions):
                    row = int(np.searchsorted(ends, place))
                    if row == len(ends) or not starts[row] < place < ends[row]:
                        continue
                    if not np.isnan(records["bits"][row]):
                        places[i] = int(ends[row])
                        continue
                    while _is_within_character(texts, places[i]):
                        places[i] -= 1
        return places

    def cut(self, places: Sequence[int]) -> None:
        """Divide each document at the positions, from `cut_positions`, that lie within it."""
        cut = self.index_path.with_name(f"{self.index_path.name}.cut")
        with self.text_path.open("rb") as texts, cut.open("wb") as index:
            for _, records, sizes in self.blocks():
                ends = records["end"].astype(np.int64)
                begin = 0
                for row in np.unique(np.searchsorted(ends, places)).tolist():
                    if row == len(ends):
                        continue
                    start, end = int(ends[row] - sizes[row]), int(ends[row])
                    inside = sorted({place for place in places if start < place < end})
                    index.write(records[begin:row].tobytes())
                    begin = row + bool(inside)
                    for first, last in pairwise([start, *inside, end] if inside else []):
                        texts.seek(first)
                        index.write(_make_part(records[row : row + 1], texts.read(last - first), last).tobytes())
                index.write(records[begin:].tobytes())
        cut.replace(self.index_path)

    def __len__(self) -> int:
        return self.index_path.stat().st_size // RECORD.itemsize

    @property
    def n_bytes(self) -> int:
        """Bytes of all texts."""
        return self.text_path.stat().st_size

    def blocks(self, start: int = 0) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Stream the index from document `start` on, as (number of the first document, records, bytes of each)."""
        with self.index_path.open("rb") as handle:
            before = 0
            if start:
                handle.seek((start - 1) * RECORD.itemsize)
                before = int(np.fromfile(handle, RECORD, 1)["end"][0])
            while len(records := np.fromfile(handle, RECORD, BLOCK)):
                yield start, records, np.diff(records["end"], prepend=np.uint64(before)).astype(np.int64)
                start, before = start + len(records), int(records["end"][-1])

    def origins(self) -> Iterator[dict[str, Any]]:
        """Stream the origins: `path` and `licence`; `group`, `revision` and `file` if present."""
        with self.origins_path.open(encoding="utf-8") as handle:
            yield from map(json.loads, handle)

    def texts(self, chosen: np.ndarray, start: int = 0) -> Iterator[tuple[int, str]]:
        """Stream (number, text) of the documents from `start` on where `chosen`, (n_documents,) bool, is true."""
        with self.text_path.open("rb") as handle:
            for first, records, sizes in self.blocks(start):
                ends = records["end"].tolist()
                for row in np.flatnonzero(chosen[first : first + len(records)]).tolist():
                    size = int(sizes[row])
                    handle.seek(ends[row] - size)  # usually within the buffer
                    yield first + row, handle.read(size).decode()

    def sample(self, chosen: np.ndarray, n_bytes: int) -> Iterator[str]:
        """Yield `n_bytes` of text of the documents where `chosen` is true, in the order of a hash of their numbers."""
        with self.text_path.open("rb") as handle:
            for end, size in self._sampled(chosen, n_bytes):
                handle.seek(end - size)
                data = handle.read(min(size, n_bytes))
                n_bytes -= len(data)
                yield data.decode(errors="ignore")  # the last text may be cut within a character
                if n_bytes <= 0:
                    return

    def _sampled(self, chosen: np.ndarray, n_bytes: int) -> list[tuple[int, int]]:
        """List (end, bytes) of the documents of lowest hash that have `n_bytes` together, or of all documents."""
        for bits in range(44, 65):  # doubles the number of candidates, so memory holds at most about twice n_bytes
            found = []
            for first, records, sizes in self.blocks():
                hashes = splitmix64(np.arange(first, first + len(records), dtype=np.uint64))
                low = chosen[first : first + len(records)] & ((hashes >> np.uint64(bits)) == 0 if bits < 64 else True)
                found.append(np.stack([hashes[low], records["end"][low], sizes[low].astype(np.uint64)]))
            order, ends, sizes = np.concatenate(found, axis=1)
            if int(sizes.sum()) >= n_bytes:
                break
        by_hash = np.argsort(order, kind="stable")
        return list(zip(ends[by_hash].tolist(), sizes[by_hash].tolist(), strict=True))

    def locate(self, numbers: Collection[int]) -> dict[int, tuple[dict[str, Any], str, str]]:
        """Return origin, location for messages, and excerpt of some documents."""
        found: dict[int, tuple[int, int, str]] = {}
        with self.text_path.open("rb") as handle:
            for first, records, sizes in self.blocks():
                for number in numbers:
                    if first <= number < first + len(records):
                        record, size = records[number - first], int(sizes[number - first])
                        handle.seek(int(record["end"]) - size)
                        text = handle.read(min(size, 8 * EXCERPT)).decode(errors="ignore")
                        found[number] = int(record["origin"]), int(record["place"]), make_excerpt(text)
        lines = {line for line, _, _ in found.values()}
        origins = {line: origin for line, origin in enumerate(self.origins()) if line in lines} if lines else {}
        return {
            number: (origin, format_location(origin.get("path", ""), origin.get("file", ""), place), text)
            for number, (line, place, text) in found.items()
            for origin in [origins[line]]
        }


def _is_within_character(texts: BinaryIO, place: int) -> bool:
    """Return whether a byte is a continuation byte of UTF-8."""
    texts.seek(place)
    return texts.read(1)[0] & 0b1100_0000 == 0b1000_0000


def _make_part(record: np.ndarray, data: bytes, end: int) -> np.ndarray:
    """Return the record, (1,), of a part of a document that ends at `end`."""
    part = record.copy()
    part["end"], part["words"] = end, len(data.decode().split())
    part["digest"] = np.frombuffer(hashlib.blake2b(data, digest_size=16).digest(), "<u8")
    return part


def make_excerpt(text: str) -> str:
    """Return the beginning of a text in one printable line."""
    words = " ".join(text.split())
    return "".join(char if char.isprintable() else "?" for char in words[:EXCERPT])
