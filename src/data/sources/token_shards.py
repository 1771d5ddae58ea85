"""Find and read the shards of text that datatrove's DocumentTokenizer has tokenized.

NAME.ds        token ids one after the other, uint16 or uint32, little-endian
NAME.ds.index  the end of each document in tokens: (n_documents,) uint64
"""

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.config.schema import CorpusConfig, UserError

SOURCE = "datatrove"
"""The value of data.*.source."""
CHUNK = 1 << 22
"""Tokens that are read at a time, unless a document is longer."""


@dataclass(frozen=True)
class Shard:
    """A file of tokens whose index fits it."""

    path: Path
    ends: np.ndarray
    """(n_documents,) uint64."""
    dtype: np.dtype[Any]

    @property
    def n_tokens(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield whole documents: their tokens, and the end of each within these tokens."""
        first, begin = 0, 0
        with self.path.open("rb") as handle:
            while first < len(self.ends):
                last = max(first + 1, int(np.searchsorted(self.ends, begin + CHUNK, "right")))
                ends = self.ends[first:last].astype(np.int64) - begin
                yield np.fromfile(handle, self.dtype, int(ends[-1])), ends
                first, begin = last, begin + int(ends[-1])


def index_of(path: Path) -> Path:
    """Return the file with the ends of the documents of a shard."""
    return path.with_name(f"{path.name}.index")


def list_shards(corpus: CorpusConfig, name: str) -> list[Path]:
    """List the .ds files of the paths of a corpus: files, folders with all that is below them, and globs.

    Raises: UserError naming the path.
    """
    key = f"data.{name}.paths"
    if not corpus.paths:
        raise UserError(f"{key} is empty: source={SOURCE} needs .ds files, or folders of them; see docs/SCALING.md")
    found: dict[str, Path] = {}
    for entry in corpus.paths:
        matches = [Path(match) for match in sorted(glob.glob(os.path.expanduser(entry), recursive=True))]
        files = [file for match in matches for file in (sorted(match.rglob("*.ds")) if match.is_dir() else [match])]
        files = [file for file in files if file.suffix == ".ds"]
        if not files:
            raise UserError(f"{key}=[{entry}]: no .ds file there; give the output_folder of datatrove's tokenizer")
        found |= {os.path.realpath(file): file for file in files}
    return list(found.values())


def open_shard(path: Path) -> Shard:
    """Read the index of a shard and check that it fits the tokens. Raises: UserError naming the file."""
    index = index_of(path)
    try:
        n_bytes, ends = path.stat().st_size, np.fromfile(index, "<u8")
    except OSError as error:
        raise UserError(
            f"{error.filename or index}: {error.strerror}; datatrove writes it with save_index=True"
        ) from None
    n_tokens = int(ends[-1]) if len(ends) else 0
    if index.stat().st_size % 8 or (np.diff(ends.astype(np.int64), prepend=0) < 0).any():
        raise UserError(f"{index}: not the ends of documents in ascending order; write the shard again")
    for dtype in ("<u2", "<u4"):
        if n_bytes == n_tokens * np.dtype(dtype).itemsize:
            return Shard(path, ends, np.dtype(dtype))
    raise UserError(f"{path}: has {n_bytes:,} bytes, and its index {n_tokens:,} tokens of 2 or 4 bytes; write it again")
