"""Read the documents of a corpus from its source: generated text, local files, the Hugging Face hub or git.

Each kind of source is an entry of `SOURCES`. Documents have a fixed order (folders are sorted), so that the same files
give the same data on every machine. They are streamed, since a corpus may be larger than memory. `file_formats.py`
reads the files.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from src.config.schema import CorpusConfig, UserError
from src.data.document import GENERATED, UNKNOWN, Document, add_note, count_dropped, count_skipped, drop_document
from src.data.filters.licenses import header_license, normalize_license
from src.data.filters.mojibake import rejection_reason, repair_mojibake
from src.data.sources.compression import DamagedFile
from src.data.sources.file_formats import read_file
from src.data.sources.local import find_files, local_license_finder, normalize_extensions
from src.data.sources.record_files import NotRecords
from src.data.sources.text_files import FREQUENT_MARK_COUNT, count_marks

MAX_REPORTED_MARKS = 3
"""Kinds of marks that are reported, the most frequent first."""
MAX_MARKS = 1000
"""Kinds of marks that are counted at a time."""


def read_documents(
    corpus: CorpusConfig,
    corpus_name: str,
    seed: int,
    dropped: Counter[str],
    cache: Path,
    replaced: Counter[str] | None = None,
) -> Iterator[Document]:
    """Yield the documents of a corpus; count what is left out in `dropped` by reason.

    cache: folder for downloads. replaced: counts secrets in code by kind.
    Raises: UserError for an unknown source, a missing path, a malformed record or a failed download.
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
        from src.data.filters.code_filters import clean_code  # imports libraries that stories do not need

        documents = clean_code(documents, corpus, dropped, Counter() if replaced is None else replaced)
    return _limit_bytes(_note_marks(documents, corpus, corpus_name, dropped), corpus.max_bytes, f"data.{corpus_name}")


def _read_local(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield the documents of local files. Seed and cache are not used."""
    license_finder = local_license_finder()
    extensions = normalize_extensions(corpus.extensions)
    for file, is_named in find_files(corpus, corpus_name, dropped).items():
        for document in _read_or_count(file, corpus, corpus_name, extensions, is_named, dropped):
            if corpus_name != "code" or document.license != UNKNOWN:
                yield document
                continue
            license_name = header_license(document.text) or license_finder.find(os.path.dirname(os.path.abspath(file)))
            yield replace(document, license=license_name)


def _read_or_count(
    file: Path, corpus: CorpusConfig, corpus_name: str, extensions: set[str], is_named: bool, dropped: Counter[str]
) -> Iterator[Document]:
    """Yield the documents of a file; count damaged files. Raises: UserError for a damaged file that the user named."""
    try:
        yield from read_file(file, corpus, corpus_name, extensions, is_named, dropped)
    except (DamagedFile, NotRecords) as error:
        if is_named:
            key, is_damaged = f"data.{corpus_name}", isinstance(error, DamagedFile)
            remedy = "replace it" if is_damaged else f"or name its field: {key}.text_field=NAME"
            raise UserError(f"{key}.paths=[{file}]: {error}; leave it out, {remedy}") from None
        if isinstance(error, DamagedFile):
            count_dropped(dropped, str(error), _file_size(file), str(file))
        else:
            count_skipped(dropped, ".json file without records of text", _file_size(file), str(file))
    except OSError:
        count_dropped(dropped, "unreadable file", _file_size(file), str(file))


def _file_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _read_hub(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Fetch all files, then yield their documents. The seed is not used."""
    from src.data.sources.huggingface import fetch_files  # a slow import that other sources do not need

    files = fetch_files(corpus, corpus_name, cache)

    def documents() -> Iterator[Document]:
        for name, file in files.items():
            for document in _read_hub_file(file, name, corpus, corpus_name, dropped):
                yield replace(
                    document,
                    path=f"{corpus.repo}/{name}",
                    license=normalize_license(corpus.licence) if corpus.licence else document.license,
                    revision=corpus.revision or "",
                    file="",
                )

    return _repair_stories(documents(), dropped) if corpus_name == "language" else documents()


def _read_hub_file(
    file: Path, name: str, corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]
) -> Iterator[Document]:
    try:
        yield from read_file(file, corpus, corpus_name, (), True, dropped)
    except (DamagedFile, NotRecords) as error:
        raise UserError(f"data.{corpus_name}.files.{name}: {error}; leave it out") from None


def _repair_stories(documents: Iterable[Document], dropped: Counter[str]) -> Iterator[Document]:
    """Repair mojibake and drop broken stories; count both by reason."""
    for document in documents:
        text = repair_mojibake(document.text)
        if (reason := rejection_reason(text)) is not None:
            drop_document(dropped, reason, document)
        elif text != document.text:
            count_dropped(dropped, "mojibake (repaired and kept)", 0, document.name)
            yield replace(document, text=text)
        else:
            yield document


def _limit_bytes(documents: Iterable[Document], max_bytes: int | None, key: str) -> Iterator[Document]:
    """Yield documents up to `max_bytes` of text. Raises: UserError if the first document is larger."""
    size = 0
    for document in documents:
        before, size = size, size + len(document.text.encode())
        if max_bytes is not None and size > max_bytes:
            if not before and document.text.strip():
                raise UserError(
                    f"{key}.max_bytes={max_bytes}: the first document has {size:,} bytes ({document.name}); raise it"
                )
            return
        yield document


def _note_marks(
    documents: Iterable[Document], corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]
) -> Iterator[Document]:
    """Yield documents; note frequent marks in them that look like separators of documents."""
    marks: Counter[str] = Counter()
    where: dict[str, str] = {}
    for document in documents:
        known = len(marks)
        is_prose = corpus_name == "language" and not document.path.lower().endswith(".md")
        count_marks(document.text, marks, is_prose)
        if len(marks) > known:
            for mark in list(marks)[known:]:
                where[mark] = document.name
        if len(marks) > MAX_MARKS:
            marks = Counter(dict(marks.most_common(MAX_MARKS // 2)))
            where = {mark: where[mark] for mark in marks}
        yield document
    for mark, count in marks.most_common(MAX_REPORTED_MARKS):
        if count >= FREQUENT_MARK_COUNT:
            add_note(
                dropped,
                f"{mark} occurs {count:,} times in the text (first in {where[mark]}) and is read as text; "
                f"data.{corpus_name}.separator='{mark}' separates documents there",
            )


def _generate(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield `max_bytes` of generated text. Documents are independent draws, so each is its own group."""
    from src.data.sources import generated  # a slow import that other sources do not need

    if corpus.max_bytes is None:
        raise UserError(f"data.{corpus_name}.max_bytes=null: set how much to generate, such as 2500000")
    generate = {"stories": generated.generate_stories, "scripts": generated.generate_scripts}[corpus.source]
    for document in generate(seed, corpus.max_bytes):
        yield Document(document.text, path=document.kind, license="generated", bits=document.bits)


def _read_git(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield the code of repositories."""
    from src.data.sources.git import read_git  # a slow import that other sources do not need

    return read_git(corpus, corpus_name, seed, dropped, cache)


Source = Callable[[CorpusConfig, str, int, Counter[str], Path], Iterator[Document]]
SOURCES: dict[str, Source] = {
    "stories": _generate,
    "scripts": _generate,
    "local": _read_local,
    "hub": _read_hub,
    "git": _read_git,
}
