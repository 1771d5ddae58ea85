"""Read the documents of a file by its extension.

    .txt, language        documents separated by `data.NAME.separator`; without a separator, one document
    .jsonl .ndjson        one object per line: `text`; optionally `source` (the group of the split), `path`, `licence`
    .json                 a list of such objects or of strings, an object with such a list, or concatenated objects
    .parquet .arrow .feather   such records as columns (extra [formats])
    other code            one document per file

All formats except columns may be compressed: .gz, .bz2, .xz, .zst (extra [formats]).
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path, PurePath
from typing import Any

from src.config.schema import CorpusConfig, UserError
from src.data.document import UNKNOWN, Document, add_note, count_dropped
from src.data.filters.licenses import normalize_license
from src.data.sources.compression import (
    INSTALL_FORMATS,
    compression_extension,
    inner_name,
    missing_library,
    read_chunks,
)
from src.data.sources.record_files import (
    LICENSE_FIELDS,
    BadRecord,
    NotRecords,
    Row,
    read_json,
    read_lines,
    read_table,
    text_field,
)
from src.data.sources.text_files import SEPARATOR, Part, decode, read_whole, split_documents, split_text, to_utf8

LINES, TABLES = (".jsonl", ".ndjson"), (".parquet", ".arrow", ".feather")
RECORDS = (*LINES, ".json", *TABLES)
ARCHIVES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar")
UNSUPPORTED_FORMATS: dict[str, str] = {
    **dict.fromkeys((".csv", ".tsv"), "a table: convert it to .jsonl or .parquet with a column `text`"),
    **dict.fromkeys((".xml", ".html", ".htm", ".xhtml", ".svg"), "markup: take its text out, into .txt or .jsonl"),
    **dict.fromkeys((".yaml", ".yml", ".toml", ".ini", ".cfg"), "settings: put its texts into .txt or .jsonl"),
    ".ipynb": "a notebook: put its texts or cells into .jsonl",
    **dict.fromkeys((".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub"), "no plain text: convert it to .txt"),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "a table: convert it to .jsonl with a field `text`"),
    **dict.fromkeys((*ARCHIVES, ".lz4", ".lzma", ".z"), "an archive: unpack it, and give the files or their folder"),
    **dict.fromkeys((".pkl", ".pickle", ".npy", ".npz", ".pt", ".h5", ".hdf5"), "no text: convert it to .jsonl"),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), "a database: write its texts to .jsonl"),
}
"""Formats that are not read, each with the remedy."""
SOURCE_CODE = (".xml", ".html", ".htm", ".xhtml", ".svg", ".yaml", ".yml", ".toml", ".ini", ".cfg")
"""Unsupported formats that the code corpus reads as code."""
PROJECT_FILES = re.compile(
    r"(?i:readme|licen[cs]e|unlicense|copying|changelog|contributing|code_of_conduct|citation|data_?card|requirements)"
    r"(?:[-_.].*)?|(?:NOTICE|AUTHORS|SECURITY|CHANGES)(?:\..*)?"
)
"""Files about a project or data set, which are not part of its text."""


def file_extension(name: str) -> str:
    """Return the lower-case extension of a file without that of its compression."""
    return PurePath(inner_name(name)).suffix.lower()


def unsupported_reason(name: str, extensions: Collection[str], corpus_name: str) -> str | None:
    """Return why a file is not read, with the remedy; None if it is read."""
    ending = file_extension(name)
    if ending in TABLES and compression_extension(name):
        return f"a compressed {ending}: decompress it, it is compressed within"
    if (
        ending in UNSUPPORTED_FORMATS
        and ending not in extensions
        and not (corpus_name == "code" and ending in SOURCE_CODE)
    ):
        return UNSUPPORTED_FORMATS[ending]
    if library := missing_library(inner_name(name)) or missing_library(name):
        return f"it needs {library}, which is not installed: {INSTALL_FORMATS}"
    return None


def read_file(
    file: Path,
    corpus: CorpusConfig,
    corpus_name: str,
    extensions: Collection[str],
    is_named: bool,
    dropped: Counter[str],
) -> Iterator[Document]:
    """Yield the documents of a file. is_named: whether the user named it; otherwise its format has to be unambiguous.

    Raises: UserError for a record that cannot be read; NotRecords, DamagedFile, OSError.
    """
    ending = file_extension(file.name)
    if ending in LINES or (ending == ".json" and ending not in extensions) or ending in TABLES:
        yield from _read_records(file, ending, corpus, corpus_name, is_named, dropped)
        return
    chunks = to_utf8(read_chunks(file))
    separated = corpus_name == "language" or ending == ".txt"
    parts = split_documents(chunks, corpus.separator or SEPARATOR) if separated else iter([read_whole(chunks)])
    for part in parts:
        yield from _to_document(part, file, dropped)


def _to_document(part: Part, file: Path, dropped: Counter[str]) -> Iterator[Document]:
    name = f"{file}:{part.line}" if part.line else str(file)
    text = decode(part.data, dropped, name, part.n_bytes)
    if text is not None:
        blank = text[: len(text) - len(text.lstrip())].count("\n") if part.line else 0
        yield Document(text, path=str(file), place=part.line and part.line + blank)


def _read_records(
    file: Path, ending: str, corpus: CorpusConfig, corpus_name: str, is_named: bool, dropped: Counter[str]
) -> Iterator[Document]:
    def choose(row: dict[str, Any]) -> str:
        field = text_field(row, corpus_name, corpus.text_field, only_usual=ending == ".json" and not is_named)
        if field not in ("text", corpus.text_field):
            add_note(
                dropped,
                f'the text of {file.name} is in its field "{field}"; data.{corpus_name}.text_field takes another',
            )
        return field

    rows: Iterator[Row]
    if ending in TABLES:
        rows = read_table(file, choose)
    else:
        rows = read_lines(file) if ending in LINES else read_json(file, only_objects=not is_named)
    unit, field = "line" if ending in LINES else "record", None
    key = f"data.{corpus_name}.paths=[{file}]" if corpus.source == "local" else f"data.{corpus_name}.files: {file.name}"
    remedy = "correct it or leave the file out"
    place = 0
    try:
        for place, row in rows:
            if field is None or field not in row:
                found = choose(row)
                if field is not None:
                    raise NotRecords(f"no text under {field}, as the records before it have")
                field = found
            yield from _row_documents(row, field, file, place, corpus, dropped)
    except BadRecord as error:
        raise UserError(f"{key} {unit} {error.place}: {error}; {remedy}") from None
    except NotRecords as error:
        if field is None and ending == ".json":
            raise
        more = "" if field is not None else f"; or name its field: data.{corpus_name}.text_field=NAME"
        raise UserError(f"{key} {unit} {place}: {error}; {remedy}{more}") from None
    if not place and ending in TABLES:
        count_dropped(dropped, "file without records", file.stat().st_size, str(file))


def _row_documents(
    row: dict[str, Any], field: str, file: Path, place: int, corpus: CorpusConfig, dropped: Counter[str]
) -> Iterator[Document]:
    value, name = row[field], f"{file}:{place}"
    if value is None:
        count_dropped(dropped, "record without text", 0, name)
        return
    if not isinstance(value, str | bytes):
        raise BadRecord(place, f'no text; "{field}" must be a text, such as {{"text": "..."}}')
    # JSON can hold half of a surrogate pair, which UTF-8 cannot, and the zero byte of a binary file.
    raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    text = decode(raw, dropped, name)
    if text is None:
        return
    group, path = row.get("source"), str(row.get("path") or "")
    license_name = next(
        (found for key in LICENSE_FIELDS if (found := normalize_license(row.get(key))) != UNKNOWN), UNKNOWN
    )
    for piece in [text] if corpus.separator is None else split_text(text, corpus.separator):
        yield Document(
            piece,
            group=None if group is None else str(group),
            path=path or str(file),
            license=license_name,
            file=str(file) if path else "",
            place=place,
        )
