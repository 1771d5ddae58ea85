"""Read a file in chunks of bounded size, decompressed by its extension.

A damaged file raises `DamagedFile` for any error of its library. Decompression is limited to `MAX_RATIO` times the size
of the file (above `RATIO_FREE_BYTES`), and to windows of `MAX_WINDOW_BYTES`.
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
"""Text compresses five to ten times; a file with a higher ratio is probably a decompression bomb."""
RATIO_FREE_BYTES = 256_000_000
"""Bytes up to which the ratio is not checked, because small files of repeated text can have any ratio."""
MAX_WINDOW_BYTES = 1 << 27
"""Largest window of a decompressor, in bytes."""
ZSTD_INPUT = 1 << 12
"""Bytes per call of zstd; four bytes can decompress to a block of 128 KiB."""
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
INSTALL_FORMATS = 'pip install -e ".[formats]"'


class DamagedFile(Exception):
    """A file cannot be read in the format of its extension; the message says why."""


def check_size(name: str, n_bytes: int, file_bytes: int) -> None:
    """Raise DamagedFile if the decompressed size exceeds `MAX_RATIO` times the file size."""
    if n_bytes > RATIO_FREE_BYTES and n_bytes > MAX_RATIO * file_bytes:
        raise DamagedFile(f"{name} that grows beyond {MAX_RATIO} times its size")


def inner_name(name: str) -> str:
    """Return a file name without the extension of its compression."""
    ending = compression_extension(name)
    return name[: -len(ending)] if ending else name


def compression_extension(name: str) -> str:
    """Return the extension of a file's compression, or an empty string."""
    return next((ending for ending in COMPRESSIONS if name.lower().endswith(ending)), "")


def missing_library(name: str) -> str | None:
    """Return the missing library that this file needs, or None."""
    needed = {".zst": "zstandard"}.get(compression_extension(name))
    needed = "pyarrow" if Path(name).suffix.lower() in (".parquet", ".arrow", ".feather") else needed
    return needed if needed and find_spec(needed) is None else None


def read_chunks(path: Path) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file. Raises: DamagedFile; OSError if it cannot be read."""
    with path.open("rb") as handle:
        compression = compression_extension(path.name)
        if not compression:
            yield from _read_pieces(handle)
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
            if error.errno is not None:  # from the system, not from the library
                raise
            raise DamagedFile(f"damaged {compression} ({first_line(error)})") from None


def read_head(path: Path, n_bytes: int) -> bytes:
    """Return the first decompressed bytes of a file; empty if it cannot be read, which reading it reports later."""
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


def _read_pieces(handle: IO[bytes] | Any) -> Iterator[bytes]:
    while piece := handle.read(CHUNK):
        yield piece


def _read_xz(handle: IO[bytes]) -> Iterator[bytes]:
    """Decompress with a memory limit, which `lzma.open` does not have."""
    data = b""
    while data := data.lstrip(b"\0") or handle.read(CHUNK):  # streams may be padded with zero bytes
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
    """Decompress and detect truncated files, which the library's own reader does not."""
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
    ".gz": lambda handle: _read_pieces(gzip.GzipFile(fileobj=handle)),
    ".bz2": lambda handle: _read_pieces(bz2.BZ2File(handle)),
    ".xz": _read_xz,
    ".zst": _read_zst,
}
