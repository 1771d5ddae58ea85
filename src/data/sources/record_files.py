"""Read documents from records: JSON Lines, JSON, Parquet and Arrow.

The text of a record is in its field `text`, otherwise in its only text field, which is reported to the user. A record
may also have `source` (the group of the split), `path` and `licence`.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from src.data.sources.compression import DamagedFile, check_size, read_chunks
from src.data.sources.text_files import MAX_DOCUMENT_BYTES, to_utf8
from src.runtime.errors import first_line

TEXT_FIELDS = {
    "language": ("text", "story", "content", "body", "article", "document"),
    "code": ("text", "content", "code", "script"),
}
"""Field names of texts in common data sets; `text` has precedence."""
LICENSE_FIELDS = ("licence", "license", "licences", "licenses", "detected_licenses", "max_stars_repo_licenses")
OTHER_FIELDS = ("source", "path", "id", "url", "title", "name", "lang", "language", "date", "author", *LICENSE_FIELDS)
"""Fields of metadata, which are never the text."""
MAX_RECORD_BYTES = 2 * MAX_DOCUMENT_BYTES

Row = tuple[int, dict[str, Any]]
"""Line or number of a record, from 1, and its fields."""


class NotRecords(Exception):
    """A file has no records; the message says why."""


class BadRecord(Exception):
    """A record cannot be read. place: its line or number."""

    def __init__(self, place: int, reason: str) -> None:
        super().__init__(reason)
        self.place = place


def text_field(row: dict[str, Any], corpus_name: str, wanted: str | None, only_usual: bool = False) -> str:
    """Return the text field of a record. only_usual: accept only the names in `TEXT_FIELDS`. Raises: NotRecords."""
    if wanted is not None:
        if wanted not in row:
            raise NotRecords(f'no text under "{wanted}", its fields are {_format_names(row)}')
        return wanted
    if "text" in row:
        return "text"
    texts = [key for key, value in row.items() if isinstance(value, str)]
    usual = [key for key in TEXT_FIELDS[corpus_name] if key in texts]
    others = [] if only_usual else [key for key in texts if key.lower() not in OTHER_FIELDS]
    for found in (usual, others):
        if len(found) == 1:
            return found[0]
        if found:
            raise NotRecords(f"its text is ambiguous, its fields are {_format_names(found)}")
    raise NotRecords("no text" + (f", its fields are {_format_names(row)}" if row else ""))


def _format_names(keys: Iterable[str]) -> str:
    names = list(keys)
    return ", ".join(json.dumps(name)[:40] for name in names[:6]) + (", ..." if len(names) > 6 else "")


def parse_json(text: str) -> Any:
    """Parse JSON. Raises: ValueError if it is invalid or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_lines(file: Path) -> Iterator[Row]:
    """Yield the records of a file with one object per line. Raises: BadRecord, DamagedFile, OSError."""
    for number, line in enumerate(_lines(to_utf8(read_chunks(file))), start=1):
        if len(line) > MAX_RECORD_BYTES:
            raise BadRecord(number, f"longer than {MAX_RECORD_BYTES / 1e6:g} MB")
        if not line.strip():
            continue
        try:
            row = parse_json(line.decode("utf-8"))
        except ValueError as error:
            is_list = number == 1 and line.lstrip().startswith(b"[")
            more = "; a list of records has to be named .json" if is_list else ""
            raise BadRecord(number, f"not JSON ({first_line(error)}){more}") from None
        if isinstance(row, list):
            raise BadRecord(number, "no text, but a list: a list of records has to be named .json")
        if not isinstance(row, dict):
            raise BadRecord(number, 'no text; a line must be like {"text": "..."}')
        yield number, row


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines; stop at one that is longer than `MAX_RECORD_BYTES` and yield only its beginning."""
    rest: list[bytes] = []
    size = 0
    for chunk in chunks:
        first, *more = chunk.split(b"\n")
        rest.append(first)
        size += len(first)
        if more:
            yield b"".join(rest)
            yield from more[:-1]
            rest, size = [more[-1]], len(more[-1])
        if size > MAX_RECORD_BYTES:
            break
    if size:
        yield b"".join(rest)


def read_json(file: Path, only_objects: bool) -> Iterator[Row]:
    """Yield the records of a JSON file: a list, an object with lists, an object, or concatenated objects.

    only_objects: whether to reject a list of strings, which may be a list of words.

    Raises: NotRecords before the first record; BadRecord, DamagedFile, OSError.
    """
    reader = _JsonReader(to_utf8(read_chunks(file)))
    try:
        begin = reader.peek()
        if begin == "[":
            yield from enumerate((_to_row(item, only_objects) for item in reader.items()), start=1)
        elif begin == "{":
            first = reader.value()
            if reader.peek():
                yield 1, _to_row(first, only_objects)
                yield from enumerate((_to_row(item, only_objects) for item in reader.values()), start=2)
            else:
                yield from enumerate(_to_records(first, only_objects), start=1)
        else:
            raise NotRecords("empty" if not begin else "no list of records")
    except ValueError as error:
        reason = f"not JSON ({first_line(error)})"
        raise (BadRecord(reader.number + 1, reason) if reader.number else NotRecords(reason)) from None
    except NotRecords as error:
        raise (BadRecord(reader.number, str(error)) if reader.number > 1 else error) from None


def _to_row(value: Any, only_objects: bool) -> dict[str, Any]:
    if isinstance(value, str) and not only_objects:
        return {"text": value}
    if isinstance(value, dict):
        return value
    raise NotRecords("no list of records")


def _to_records(value: dict[str, Any], only_objects: bool) -> list[dict[str, Any]]:
    """Return the records in the lists of an object, or the object itself."""
    if isinstance(value.get("text"), str):
        return [value]
    lists = [item for item in value.values() if isinstance(item, list) and item]
    records = [item for item in lists if all(isinstance(row, dict) for row in item)]
    texts = [item for item in lists if all(isinstance(row, str) for row in item)]
    if records or (len(texts) == 1 and not only_objects):
        return [_to_row(row, only_objects) for item in records or texts for row in item]
    return [value]


class _JsonReader:
    """Reads the values of a JSON text; only one value is in memory."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0
        self.number = 0
        """Number of values that were read."""

    def _read(self, n_characters: int) -> bool:
        """Read at least `n_characters` more; return whether there were any."""
        pieces = [self._text[self._at :]]
        self._at = 0
        while n_characters > 0 and (chunk := next(self._chunks, None)) is not None:
            pieces.append(self._decoder.decode(chunk))
            n_characters -= len(pieces[-1])
        self._text = "".join(pieces)
        return len(pieces) > 1

    def peek(self) -> str:
        """Return the next character that is not white space, or an empty string at the end."""
        while True:
            rest = self._text
            while self._at < len(rest) and rest[self._at] in " \t\r\n\ufeff":
                self._at += 1
            if self._at < len(rest):
                return rest[self._at]
            if not self._read(1):
                self._decoder.decode(b"", final=True)
                return ""

    def value(self) -> Any:
        """Return the next value. Raises: ValueError."""
        self.peek()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self._text, self._at)
                if end < len(self._text) or self._text[end - 1] in '}]"' or not self._read(1):
                    break
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except ValueError:
                pending = len(self._text) - self._at
                if pending > MAX_RECORD_BYTES:
                    raise ValueError(f"or longer than {MAX_RECORD_BYTES / 1e6:g} MB") from None
                if not self._read(max(1, pending)):
                    raise
        self._at = end
        self.number += 1
        return value

    def values(self) -> Iterator[Any]:
        """Yield all remaining values."""
        while self.peek():
            yield self.value()

    def items(self) -> Iterator[Any]:
        """Yield the items of the list that begins here."""
        self._at += 1
        while (begin := self.peek()) != "]":
            if self.number:
                if begin != ",":
                    raise ValueError("a comma or ] is missing" if begin else "it ends within its list")
                self._at += 1
            yield self.value()
        self._at += 1
        if self.peek():
            raise ValueError("something follows its list")


def read_table(file: Path, choose: Callable[[dict[str, Any]], str]) -> Iterator[Row]:
    """Yield the rows of a Parquet or Arrow file: the text column that `choose` returns, and columns of metadata.

    Raises: NotRecords, DamagedFile, OSError.
    """
    import pyarrow as pa  # pyright: ignore[reportMissingImports]

    n_bytes, file_bytes = 0, file.stat().st_size
    try:
        with file.open("rb") as handle:
            schema, batches = (_open_parquet if file.suffix.lower() == ".parquet" else _open_arrow)(pa, handle)
            texts = [item.name for item in schema if _is_text(pa, item.type)]
            others = [item.name for item in schema if item.name in OTHER_FIELDS and item.name not in texts]
            text = choose(dict.fromkeys(texts, ""))
            wanted = [text, *(name for name in ("source", "path", *LICENSE_FIELDS) if name in texts + others)]
            number = 0
            for columns in batches(list(dict.fromkeys(wanted))):
                for index in range(min(map(len, columns.values()))):
                    number += 1
                    row = {name: column[index] for name, column in columns.items()}
                    n_bytes += row[text].as_buffer().size if row[text].is_valid else 0
                    check_size(file.suffix, n_bytes, file_bytes)
                    yield number, {name: _to_python(value) for name, value in row.items()}
    except (pa.ArrowException, ValueError, OSError, MemoryError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DamagedFile(f"damaged {file.suffix.lower()} ({first_line(error)[:120]})") from None


def _to_python(value: Any) -> Any:
    """Convert an Arrow value to Python; text that is not UTF-8 is returned as bytes."""
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return value.as_buffer().to_pybytes()


def _is_text(pa: Any, kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _open_parquet(pa: Any, handle: IO[bytes]) -> tuple[Any, Callable[[list[str]], Iterator[dict[str, Any]]]]:
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    file = parquet.ParquetFile(handle)
    for group in range(file.metadata.num_row_groups):
        for column in range(file.metadata.num_columns):
            sizes = file.metadata.row_group(group).column(column)
            check_size(".parquet", sizes.total_uncompressed_size, sizes.total_compressed_size)

    def batches(names: list[str]) -> Iterator[dict[str, Any]]:
        # A dictionary column holds a repeated text once.
        texts = [name for name in names if _is_text(pa, file.schema_arrow.field(name).type)]
        reader = parquet.ParquetFile(handle, read_dictionary=texts)
        for batch in reader.iter_batches(batch_size=256, columns=names, use_threads=False):
            batch.validate(full=True)
            yield {name: _Column(pa, batch.column(name)) for name in names}

    return file.schema_arrow, batches


def _open_arrow(pa: Any, handle: IO[bytes]) -> tuple[Any, Callable[[list[str]], Iterator[dict[str, Any]]]]:
    magic = handle.read(6)
    handle.seek(0)
    reader = pa.ipc.open_file(handle) if magic == b"ARROW1" else pa.ipc.open_stream(handle)
    found = (reader.get_batch(i) for i in range(reader.num_record_batches)) if magic == b"ARROW1" else iter(reader)

    def batches(names: list[str]) -> Iterator[dict[str, Any]]:
        for batch in found:
            batch.validate(full=True)
            yield {name: _Column(pa, batch.column(name)) for name in names}

    return reader.schema, batches


class _Column:
    """The values of a column, without a copy of each repeated text."""

    def __init__(self, pa: Any, column: Any) -> None:
        self._column = column
        self._is_dictionary = pa.types.is_dictionary(column.type)

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, index: int) -> Any:
        value = self._column[index]
        return value.value if self._is_dictionary and value.is_valid else value
