"""Read documents from where they are: generated on the spot, files of the user or of the Hugging Face hub,
or repositories of git.

A source kind is an entry of `SOURCES`. Documents come in a fixed order (folders sorted), so that the same files
give the same data on every machine, and they stream: a corpus may be larger than memory.

Files, by extension:
    .txt    documents separated by a line `<|endoftext|>`, or else the whole file is one document
    .jsonl  an object a line: `text`, and where present `source` (the group of the split), `path`, `licence`
    others  one document a file
"""

import codecs
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from src.config import CorpusConfig, UserError
from src.data.licences import UNKNOWN, header_licence
from src.data.local import local_files, nearest_licence
from src.data.repair import flaw_of, repair_mojibake
from src.runtime.errors import first_line

SEPARATOR = b"<|endoftext|>"
LARGEST_DOCUMENT = 32_000_000
"""Bytes of a file, or of a text in a file, that are read at once; larger ones are passed over, so that memory lasts."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text and what is known of it."""

    text: str
    group: str | None = None
    """Documents of a group stay on one side of the split; None: the document is a group of its own."""
    path: str = ""
    licence: str = UNKNOWN
    revision: str = ""
    """The commit of the repository that it comes from."""
    bits: float | None = None
    """Exact -log2 of its probability, where the text was generated."""


def read_documents(
    corpus: CorpusConfig,
    corpus_name: str,
    seed: int,
    dropped: Counter[str],
    cache: Path,
    replaced: Counter[str] | None = None,
) -> Iterator[Document]:
    """Yield the documents of a corpus; what is not taken is counted in `dropped` by reason.

    cache: the folder where what came over the network is kept. replaced: counts secrets in code, by kind.
    Raises: UserError for an unknown source, a path that is not there, a malformed .jsonl line, a failed download.
    """
    if corpus.source not in SOURCES:
        raise UserError(
            f"data.{corpus_name}.source={corpus.source}: no such source; choose one of {', '.join(SOURCES)}"
        )
    if corpus.max_bytes is not None and corpus.max_bytes < 1:
        raise UserError(f"data.{corpus_name}.max_bytes={corpus.max_bytes}: must be at least 1, or null for no limit")
    documents = SOURCES[corpus.source](corpus, corpus_name, seed, dropped, cache)
    if corpus.source in GENERATED:
        return documents
    if corpus_name == "code":
        from src.data.hygiene import clean_code  # it brings libraries that stories do not need

        documents = clean_code(documents, corpus, dropped, Counter() if replaced is None else replaced)
    return _cut(documents, corpus.max_bytes)


def _read_local(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield the documents of the user's files. Seed and cache play no part."""
    licences = nearest_licence()
    for file in local_files(corpus, corpus_name, dropped):
        try:
            for document in _read_file(file, corpus_name, dropped):
                if corpus_name != "code" or document.licence != UNKNOWN:
                    yield document
                    continue
                licence = header_licence(document.text) or licences.of(os.path.dirname(os.path.abspath(file)))
                yield replace(document, licence=licence)
        except OSError:
            dropped["unreadable file"] += 1


def _read_hub(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Fetch all files at once, then yield their documents. The seed plays no part."""
    from src.data.hub import fetch_files  # not needed by who downloads nothing

    files = fetch_files(corpus, corpus_name, cache)

    def documents() -> Iterator[Document]:
        for name, file in files.items():
            for document in _read_file(file, corpus_name, dropped):
                yield replace(
                    document,
                    path=f"{corpus.repo}/{name}",
                    licence=corpus.licence or document.licence,
                    revision=corpus.revision or "",
                )

    return _whole_stories(documents(), dropped) if corpus_name == "language" else documents()


def _whole_stories(documents: Iterable[Document], dropped: Counter[str]) -> Iterator[Document]:
    """Repair what can be repaired and leave broken stories out, counting both by reason."""
    for document in documents:
        text = repair_mojibake(document.text)
        if (flaw := flaw_of(text)) is not None:
            dropped[flaw] += 1
        elif text != document.text:
            dropped["mojibake (repaired and kept)"] += 1
            yield replace(document, text=text)
        else:
            yield document


def _cut(documents: Iterable[Document], max_bytes: int | None) -> Iterator[Document]:
    """Yield documents up to `max_bytes` of text."""
    size = 0
    for document in documents:
        size += len(document.text.encode())
        if max_bytes is not None and size > max_bytes:
            return
        yield document


def _read_file(file: Path, corpus_name: str, dropped: Counter[str]) -> Iterator[Document]:
    if file.suffix.lower() == ".jsonl":
        yield from _read_jsonl(file, corpus_name, dropped)
        return
    for raw in _split_txt(file) if file.suffix.lower() == ".txt" else _whole(file):
        text = decode(raw, dropped)
        if text is not None:
            yield Document(text, path=str(file))


def _whole(file: Path) -> Iterator[bytes]:
    """Yield a file; of one that is too large, no more than shows that."""
    with file.open("rb") as handle:
        yield handle.read(LARGEST_DOCUMENT + 1)


def _split_txt(file: Path) -> Iterator[bytes]:
    """Yield the documents of a file; of those that are too large, no more than shows that."""
    lines: list[bytes] = []
    size = 0
    separated = False
    with file.open("rb") as handle:
        while line := handle.readline(LARGEST_DOCUMENT + 1):
            if line.strip() == SEPARATOR:
                separated = True
                yield b"".join(lines)
                lines, size = [], 0
            elif size <= LARGEST_DOCUMENT:
                lines.append(line)
                size += len(line)
    rest = b"".join(lines)
    if rest.strip() or not separated:  # nothing follows the last separator, or one stands at the end: no document
        yield rest


def decode(raw: bytes, dropped: Counter[str]) -> str | None:
    """Decode UTF-8 (with or without a byte order mark), or count why that fails."""
    if len(raw) > LARGEST_DOCUMENT:
        dropped[f"larger than {LARGEST_DOCUMENT / 1e6:g} MB"] += 1
        return None
    if b"\0" in raw:
        dropped["binary"] += 1
        return None
    try:
        return raw.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        dropped["not UTF-8"] += 1
        return None


def _read_jsonl(file: Path, corpus_name: str, dropped: Counter[str]) -> Iterator[Document]:
    with file.open("rb") as handle:
        for number, line in enumerate(iter(lambda: handle.readline(2 * LARGEST_DOCUMENT), b""), start=1):
            if not line.strip():
                continue
            where = f"data.{corpus_name}.paths=[{file}] line {number}"
            if len(line) == 2 * LARGEST_DOCUMENT:
                raise UserError(f"{where}: longer than {len(line) / 1e6:g} MB; cut it into several or leave it out")
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON ({first_line(error)}); correct it or leave the file out") from None
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise UserError(
                    f'{where}: no text; a line must be like {{"text": "..."}}; correct it or leave the file out'
                )
            # JSON can hold what UTF-8 cannot (half of a surrogate pair), and the zero byte of a binary file.
            text = decode(row["text"].encode("utf-8", "surrogatepass"), dropped)
            if text is not None:
                yield _from_row(text, row, file)


def _from_row(text: str, row: dict[str, object], file: Path) -> Document:
    group = row.get("source")
    return Document(
        text,
        group=None if group is None else str(group),
        path=str(row.get("path") or file),
        licence=str(row.get("licence") or row.get("license") or UNKNOWN),
    )


def _generate(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield `max_bytes` of generated text. Each document is a group: they are independent draws."""
    from src.data import embedded  # not needed by who brings text

    if corpus.max_bytes is None:
        raise UserError(f"data.{corpus_name}.max_bytes=null: say how much to generate, such as 2500000")
    generate = {"stories": embedded.generate_stories, "scripts": embedded.generate_scripts}[corpus.source]
    for document in generate(seed, corpus.max_bytes):
        yield Document(document.text, path=document.kind, licence="generated", bits=document.bits)


def _read_git(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield the code of repositories."""
    from src.data.git import read_git  # not needed by who fetches nothing

    return read_git(corpus, corpus_name, seed, dropped, cache)


Source = Callable[[CorpusConfig, str, int, Counter[str], Path], Iterator[Document]]
SOURCES: dict[str, Source] = {
    "stories": _generate,
    "scripts": _generate,
    "local": _read_local,
    "hub": _read_hub,
    "git": _read_git,
}
GENERATED = ("stories", "scripts")
