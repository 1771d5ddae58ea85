"""Read a file in pieces of bounded size, decompressed where its name says that it is compressed.

A damaged file raises `DamagedFile`, whatever its library raises. What is decompressed is bounded: neither more than
`MAX_RATIO` times the size of the file, beyond a size that is no harm, nor more memory than `MAX_WINDOW_BYTES`.
"""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from src.runtime.errors import first_line

CHUNK = 1 << 20
MAX_RATIO = 200
"""Text shrinks to a fifth or a tenth; a file that grows beyond this is built to fill a disk."""
RATIO_FREE_BYTES = 256_000_000
"""Bytes up to which the ratio is not looked at: small files of repeated text shrink without limit."""
MAX_WINDOW_BYTES = 1 << 27
"""Bytes of the window that a decompressor may ask for."""
ZSTD_INPUT = 1 << 12
"""Bytes that are given to zstd at once: each block of four may become 128 KiB."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
INSTALL_FORMATS = 'pip install -e ".[formats]"'


class DamagedFile(Exception):
    """A file that cannot be read as what its name says, in a few words."""


def check_size(name: str, n_bytes: int, file_bytes: int) -> None:
    """Raise DamagedFile where a file has grown beyond what text does."""
    if n_bytes > RATIO_FREE_BYTES and n_bytes > MAX_RATIO * file_bytes:
        raise DamagedFile(f"{name} that grows beyond {MAX_RATIO} times its size")


def inner_name(name: str) -> str:
    """Return a file's name without the ending that says how it is compressed."""
    ending = compression_extension(name)
    return name[: -len(ending)] if ending else name


def compression_extension(name: str) -> str:
    """Return the ending that says how a file is compressed, or nothing."""
    return next((ending for ending in COMPRESSIONS if name.lower().endswith(ending)), "")


def missing_library(name: str) -> str | None:
    """Name the library that this file needs and that is not installed; None if it can be read."""
    needed = {".zst": "zstandard"}.get(compression_extension(name))
    needed = "pyarrow" if Path(name).suffix.lower() in (".parquet", ".arrow", ".feather") else needed
    return needed if needed and find_spec(needed) is None else None


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed. Raises: DamagedFile; OSError where it cannot be read at all."""
    with path.open("rb") as handle:
        compression = compression_extension(path.name)
        if not compression:
            yield from _pieces(handle)
            return
        n_bytes, file_bytes = 0, path.stat().st_size
        try:
            for piece in OPENERS[compression](handle):
                n_bytes += len(piece)
                check_size(compression, n_bytes, file_bytes)
                yield piece
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DamagedFile(f"damaged {compression} ({first_line(error)})") from None
        except OSError as error:
            if error.errno is not None:  # of the system, not of the library
                raise
            raise DamagedFile(f"damaged {compression} ({first_line(error)})") from None


def read_head(path: Path, n_bytes: int) -> bytes:
    """Return the first bytes of a file, decompressed; nothing where it cannot be read: who reads it will say so."""
    head = b""
    if missing_library(path.name):
        return head
    try:
        for piece in read_chunks(path):
            head += piece
            if len(head) >= n_bytes:
                break
    except (OSError, DamagedFile):
        pass
    return head[:n_bytes]


def _pieces(handle: IO[bytes] | Any) -> Iterator[bytes]:
    while piece := handle.read(CHUNK):
        yield piece


def _read_gz(handle: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=handle) as stream:
        yield from _pieces(stream)


def _read_bz2(handle: IO[bytes]) -> Iterator[bytes]:
    with bz2.BZ2File(handle) as stream:
        yield from _pieces(stream)


def _read_xz(handle: IO[bytes]) -> Iterator[bytes]:
    """Decompress by hand: `lzma.open` lets a file ask for any amount of memory."""
    data = b""
    while data := data.lstrip(b"\0") or handle.read(CHUNK):  # between streams there may be zero bytes
        decompressor = lzma.LZMADecompressor(memlimit=MAX_WINDOW_BYTES)
        while True:
            if piece := decompressor.decompress(data, CHUNK):
                yield piece
            data = b""
            if decompressor.eof:
                break
            if decompressor.needs_input and not (data := handle.read(CHUNK)):
                raise EOFError("ends within its data")
        data = decompressor.unused_data


def _read_zst(handle: IO[bytes]) -> Iterator[bytes]:
    """Decompress by hand: the library's own reader does not notice a file that ends within its data."""
    import zstandard  # pyright: ignore[reportMissingImports]

    data = b""
    try:
        while data := data or handle.read(ZSTD_INPUT):
            decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj()
            while True:
                if piece := decompressor.decompress(data):
                    yield piece
                if decompressor.eof:
                    break
                if not (data := handle.read(ZSTD_INPUT)):
                    raise EOFError("ends within its data")
            data = decompressor.unused_data
    except zstandard.ZstdError as error:
        raise DamagedFile(f"damaged .zst ({first_line(error)})") from None


OPENERS: dict[str, Callable[[IO[bytes]], Iterator[bytes]]] = {
    ".gz": _read_gz,
    ".bz2": _read_bz2,
    ".xz": _read_xz,
    ".zst": _read_zst,
}
