"""Encode the documents of a store into the token files of its splits; an interrupted run resumes.

    <corpus>_<split>.npy            EOT doc EOT doc ... EOT: token ids, uint16 or uint32 by the size of the vocabulary
    <corpus>_<split>.offsets.npy    position of the EOT before each document: (n_documents,) uint64
    <corpus>_<split>.documents.npy  hash of each document's text and its line in the next file: `DOCUMENT`
    <corpus>.origins.jsonl          group, path, licence and revision of all documents that were read

One thread encodes a batch on all cores while another writes the batch before. Files only grow. Their lengths are
recorded regularly with the number of the next document; a resume truncates the files to the recorded lengths.
"""

import hashlib
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from itertools import chain, starmap
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from src.data.parallel_map import group_into_batches
from src.data.preparation.document_store import DocumentStore
from src.data.preparation.splits import BEYOND_MAX_TOKENS, SPLITS, TRAIN
from src.data.tokenizer.bpe import encode_batch
from src.runtime.atomic_files import remove_path, sync
from src.runtime.records import find_record, write_record

BATCH_BYTES = 1_000_000
BATCHES_PER_RECORD = 32
"""Batches between two records of the progress."""
DOCUMENT = np.dtype([("digest", "<u8", (2,)), ("origin", "<u4")])
CUT = re.compile(r"(?<=[A-Za-z])\n")
"""Where a long text can be cut without changing its tokens: no known pre-tokenizer joins a letter and a line end."""


def token_dtype(n_ids: int) -> np.dtype[Any]:
    """Return the smaller of uint16 and uint32 that holds all ids."""
    return np.dtype("<u2" if n_ids <= 2**16 else "<u4")


class NpyFile:
    """A growing 1-D .npy file; the header has room for the length, which is written at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any], length: int = 0) -> None:
        """Open a new file, or truncate an existing one to `length` values."""
        self.path, self.dtype, self.length = path, dtype, length
        self._handle = path.open("r+b" if path.exists() else "w+b")
        self._start = self._write_header()
        end = self._start + length * dtype.itemsize
        self._handle.truncate(end)
        self._handle.seek(self._start)
        self._hash = hashlib.sha256()
        while piece := self._handle.read(1 << 20):
            self._hash.update(piece)

    @property
    def digest(self) -> str:
        """The SHA-256 of all values."""
        return self._hash.hexdigest()

    def _write_header(self) -> int:
        description = np.lib.format.dtype_to_descr(self.dtype)
        self._handle.seek(0)
        np.lib.format.write_array_header_1_0(
            self._handle, {"descr": description, "fortran_order": False, "shape": (self.length,)}
        )
        return self._handle.tell()

    def append(self, values: Any) -> None:
        array = np.asarray(values, dtype=self.dtype)
        data = array.tobytes()
        self._handle.write(data)
        self._hash.update(data)
        self.length += len(array)

    def flush(self) -> None:
        """Write all appended values to the disk."""
        self._handle.flush()
        sync(self.path)

    def complete(self) -> None:
        """Write the length into the header and close the file."""
        start = self._write_header()
        assert start == self._start, "numpy keeps the size of the header"
        self.close()

    def close(self) -> None:
        """Close the file, complete or not."""
        self._handle.close()


class _Piece(NamedTuple):
    """A document, or a part of a document that is longer than a batch."""

    number: int
    text: str
    is_first: bool
    is_last: bool


def pack(
    store: DocumentStore,
    split_assignment: np.ndarray,
    tokenizer: Tokenizer,
    special: tuple[int, int],
    stem: Path,
    progress_path: Path,
    max_tokens: int | None,
) -> None:
    """Write the token files of a corpus; resume where an earlier process stopped.

    special: id of the end-of-text token, and number of ids. stem: folder and name of the corpus. progress_path: file of
    the `PackingProgress`. max_tokens: training documents after the one that reaches it are left out and marked
    BEYOND_MAX_TOKENS in `split_assignment`; held-out documents stay, so that evaluation does not depend on the limit.
    """
    known, writer = _resume(progress_path, stem, special, split_assignment, max_tokens)
    with (
        closing(writer),
        tqdm(
            desc=f"packing {stem.name}",
            total=len(store),
            initial=known["next"],
            unit=" documents",
            disable=None,
            leave=False,
        ) as progress,
    ):
        texts = chain.from_iterable(starmap(_cut_text, store.texts(writer.wanted, known["next"])))
        batches = group_into_batches(texts, lambda piece: len(piece.text), BATCH_BYTES, max_items=sys.maxsize)
        for number, (pieces, encoded) in enumerate(_encode_batches(batches, tokenizer), start=1):
            writer.write(pieces, encoded)
            done = pieces[-1].number + 1
            progress.update(done - progress.n)
            if number % BATCHES_PER_RECORD == 0 and pieces[-1].is_last:
                writer.flush()
                write_record(progress_path, {"next": done, "lengths": writer.lengths, "digests": writer.digests})
        writer.complete()
    train = np.flatnonzero(split_assignment == TRAIN)
    split_assignment[train[writer.lengths[TRAIN][1] :]] = BEYOND_MAX_TOKENS


class PackingProgress(TypedDict):
    """The progress of packing a corpus."""

    next: int
    """Number of the first document that is not packed."""
    lengths: list[tuple[int, int]]
    """Tokens and documents of each split."""
    digests: list[list[str]]
    """SHA-256 of the files of each split."""


def _resume(
    progress_path: Path, stem: Path, special: tuple[int, int], split_assignment: np.ndarray, max_tokens: int | None
) -> "tuple[PackingProgress, _Writer]":
    """Return the progress and the files; start over if the files differ from the recorded progress."""
    if known := find_record(progress_path, PackingProgress):
        with suppress(OSError):
            writer = _Writer(stem, special, known["lengths"], split_assignment, max_tokens)
            if writer.digests == known["digests"]:
                return known, writer
            writer.close()
    remove_path(progress_path)
    for path in _token_files(stem):
        remove_path(path)
    writer = _Writer(stem, special, [(0, 0) for _ in SPLITS], split_assignment, max_tokens)
    return {"next": 0, "lengths": [], "digests": []}, writer


def _token_files(stem: Path) -> list[Path]:
    return [stem.with_name(f"{stem.name}_{name}{kind}") for name in SPLITS for kind in (".npy", ".offsets.npy")]


def write_documents(store: DocumentStore, split_assignment: np.ndarray, stem: Path) -> None:
    """Write hash and origin of the packed documents."""
    for number, name in enumerate(SPLITS):
        path = stem.with_name(f"{stem.name}_{name}.documents.npy")
        remove_path(path)
        file = NpyFile(path, DOCUMENT)
        for first, records, _ in store.blocks():
            file.append(records[["digest", "origin"]][split_assignment[first : first + len(records)] == number])
        file.complete()
    origins = stem.with_name(f"{stem.name}.origins.jsonl")
    remove_path(origins)
    shutil.copyfile(store.origins_path, origins)


def _cut_text(number: int, text: str) -> Iterator[_Piece]:
    """Cut a text that is longer than a batch at places that do not change its tokens."""
    start = 0
    while cut := CUT.search(text, start + BATCH_BYTES):
        yield _Piece(number, text[start : cut.start()], start == 0, False)
        start = cut.start()
    yield _Piece(number, text[start:], start == 0, True)


def _encode_batches(
    batches: Iterator[list[_Piece]], tokenizer: Tokenizer
) -> Iterator[tuple[list[_Piece], list[list[int]]]]:
    """Encode each batch while the caller uses the batch before."""
    with ThreadPoolExecutor(1) as encoder:
        ahead = None
        for pieces in batches:
            encoding = pieces, encoder.submit(encode_batch, tokenizer, [piece.text for piece in pieces])
            if ahead is not None:
                yield ahead[0], ahead[1].result()
            ahead = encoding
        if ahead is not None:
            yield ahead[0], ahead[1].result()


class _Writer:
    """The token files of all splits of a corpus."""

    def __init__(
        self,
        stem: Path,
        special: tuple[int, int],
        lengths: list[tuple[int, int]],
        split_assignment: np.ndarray,
        max_tokens: int | None,
    ) -> None:
        self.eot_id, n_ids = special
        self.split_assignment, self.max_tokens = split_assignment, max_tokens
        self.wanted = split_assignment >= 0
        """The documents to encode, (n_documents,) bool; training documents are cleared at `max_tokens`."""
        dtype = token_dtype(n_ids)
        self.files: list[tuple[NpyFile, NpyFile]] = []
        with ExitStack() as opened:
            for name, (n_tokens, n_documents) in zip(SPLITS, lengths, strict=True):
                path = stem.with_name(f"{stem.name}_{name}.npy")
                offsets = opened.enter_context(
                    closing(NpyFile(path.with_suffix(".offsets.npy"), np.dtype("<u8"), n_documents))
                )
                tokens = opened.enter_context(closing(NpyFile(path, dtype, n_tokens)))
                self.files.append((tokens, offsets))
                if not n_tokens:
                    tokens.append([self.eot_id])
            opened.pop_all()  # all files are open; `close` closes them

    @property
    def lengths(self) -> list[tuple[int, int]]:
        """Tokens and documents of each split so far."""
        return [(tokens.length, offsets.length) for tokens, offsets in self.files]

    @property
    def digests(self) -> list[list[str]]:
        """The SHA-256 of each file so far."""
        return [[file.digest for file in files] for files in self.files]

    def write(self, pieces: list[_Piece], encoded: list[list[int]]) -> None:
        """Append a batch."""
        ids: list[list[int]] = [[] for _ in SPLITS]
        starts: list[list[int]] = [[] for _ in SPLITS]
        before = [tokens.length for tokens, _ in self.files]
        for piece, tokens in zip(pieces, encoded, strict=True):
            split = self.split_assignment[piece.number]
            length = before[split] + len(ids[split])
            if piece.is_first and split == TRAIN and self.max_tokens is not None and length >= self.max_tokens:
                self.wanted[self.split_assignment == TRAIN] = False
            if not self.wanted[piece.number]:
                continue
            if piece.is_first:
                starts[split].append(length - 1)
            ids[split] += tokens
            if piece.is_last:
                ids[split].append(self.eot_id)
        for (tokens, offsets), more_ids, more_starts in zip(self.files, ids, starts, strict=True):
            tokens.append(more_ids)
            offsets.append(more_starts)

    def flush(self) -> None:
        """Write all appended values to the disk."""
        for file in chain(*self.files):
            file.flush()

    def complete(self) -> None:
        """Write the headers and close the files."""
        for file in chain(*self.files):
            file.complete()

    def close(self) -> None:
        """Close the files, complete or not."""
        for file in chain(*self.files):
            file.close()
