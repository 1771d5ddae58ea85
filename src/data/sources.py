"""Read documents from where they are: generated on the spot, files of the user, or of the Hugging Face hub.

A source kind is an entry of `SOURCES`. Documents come in a fixed order (folders sorted), so that the same files
give the same data on every machine, and they stream: a corpus may be larger than memory.

Files, by extension:
    .txt    documents separated by a line `<|endoftext|>`, or else the whole file is one document
    .jsonl  an object a line: `text`, and where present `source` (the group of the split), `path`, `licence`
    others  one document a file
"""

import codecs
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from src.config import CorpusConfig, UserError
from src.data.repair import flaw_of, repair_mojibake

SEPARATOR = b"<|endoftext|>"
SHELL_SHEBANG = re.compile(rb"#![ \t]*(?:\S*/)?(?:env[ \t]+(?:-\S+[ \t]+)*)?(?:\S*/)?(?:ba|da|k|z)?sh(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Document:
    """A text and what is known of it."""

    text: str
    group: str | None = None
    """Documents of a group stay on one side of the split; None: the document is a group of its own."""
    path: str = ""
    licence: str = "unknown"
    revision: str = ""
    """The commit of the repository that it comes from."""
    bits: float | None = None
    """Exact -log2 of its probability, where the text was generated."""


def read_documents(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield the documents of a corpus; what cannot be read as text is counted in `dropped` by reason.

    cache: the folder where what came over the network is kept.
    Raises: UserError for an unknown source, a path that is not there, a malformed .jsonl line, a failed download.
    """
    if corpus.source not in SOURCES:
        raise UserError(
            f"data.{corpus_name}.source={corpus.source}: no such source; choose one of {', '.join(SOURCES)}"
        )
    if corpus.max_bytes is not None and corpus.max_bytes < 1:
        raise UserError(f"data.{corpus_name}.max_bytes={corpus.max_bytes}: must be at least 1, or null for no limit")
    return SOURCES[corpus.source](corpus, corpus_name, seed, dropped, cache)


def local_files(corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]) -> list[Path]:
    """List the files that the paths of a local corpus stand for, each once. Raises: UserError naming the path."""
    key = f"data.{corpus_name}.paths"
    if not corpus.paths:
        example = "[~/stories,more/*.txt]" if corpus_name == "language" else "[~/scripts,more/**/*.sh]"
        raise UserError(f"{key} is empty: the local source needs files, folders or globs, such as {key}={example}")
    files: dict[str, Path] = {}
    for entry in corpus.paths:
        for file in _resolve(entry, corpus, corpus_name, dropped):
            files.setdefault(os.path.realpath(file), file)
    return list(files.values())


def _resolve(entry: str, corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]) -> Iterator[Path]:
    """Yield the files of one path. A file that is named, or that a glob finds, is taken whatever its extension."""
    path = os.path.expanduser(entry)
    found = [path]
    if not os.path.exists(path) and glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
        if "**" in path:  # it descends by itself, so that a folder it finds is no order to take all that is inside
            found = [match for match in found if os.path.isfile(match)]
        if not found:
            raise UserError(f"data.{corpus_name}.paths=[{entry}]: this glob finds nothing; correct it or leave it out")
    for match in found:
        if os.path.isfile(match):
            yield Path(match)
        elif os.path.isdir(match):
            yield from _walk(Path(match), corpus, corpus_name, dropped)
        else:
            reason = "is neither a file nor a folder" if os.path.exists(match) else "does not exist"
            raise UserError(f"data.{corpus_name}.paths=[{entry}]: it {reason}; correct it or leave it out")


def _walk(root: Path, corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]) -> Iterator[Path]:
    """Yield the files of a folder that belong to the corpus, sorted; hidden folders are passed over."""
    extensions = {"." + extension.lower().lstrip(".") for extension in corpus.extensions} | {".jsonl"}
    visited: set[str] = set()

    def count_error(_: OSError) -> None:
        dropped["unreadable folder"] += 1

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=count_error):
        real = os.path.realpath(folder)
        if real in visited:  # a symbolic link back to a folder above
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for file in (Path(folder, name) for name in sorted(names)):
            wanted = file.suffix.lower() in extensions
            if not wanted and corpus_name == "code" and not file.suffix:
                wanted = _has_shell_shebang(file)
            if wanted and os.path.isfile(file):
                yield file


def _has_shell_shebang(file: Path) -> bool:
    if not os.path.isfile(file):  # opening a pipe would wait for ever
        return False
    try:
        with file.open("rb") as handle:
            return SHELL_SHEBANG.match(handle.readline(256)) is not None
    except OSError:
        return False


def _read_local(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield the documents of the user's files up to `max_bytes` of text. Seed and cache play no part."""

    def documents() -> Iterator[Document]:
        for file in local_files(corpus, corpus_name, dropped):
            try:
                yield from _read_file(file, corpus_name, dropped)
            except OSError:
                dropped["unreadable file"] += 1

    return _cut(documents(), corpus.max_bytes)


def _read_hub(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Fetch all files at once, then yield their documents up to `max_bytes` of text. The seed plays no part."""
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

    whole = _whole_stories(documents(), dropped) if corpus_name == "language" else documents()
    return _cut(whole, corpus.max_bytes)


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
    for raw in _split_txt(file) if file.suffix.lower() == ".txt" else [file.read_bytes()]:
        text = _decode(raw, dropped)
        if text is not None:
            yield Document(text, path=str(file))


def _split_txt(file: Path) -> Iterator[bytes]:
    lines: list[bytes] = []
    separated = False
    with file.open("rb") as handle:
        for line in handle:
            if line.strip() == SEPARATOR:
                separated = True
                yield b"".join(lines)
                lines = []
            else:
                lines.append(line)
    rest = b"".join(lines)
    if rest.strip() or not separated:  # nothing follows the last separator, or one stands at the end: no document
        yield rest


def _decode(raw: bytes, dropped: Counter[str]) -> str | None:
    """Decode UTF-8 (with or without a byte order mark), or count why that fails."""
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
        for number, line in enumerate(handle, start=1):
            if not line.strip():
                continue
            where = f"data.{corpus_name}.paths=[{file}] line {number}"
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{where}: not JSON ({reason}); correct it or leave the file out") from None
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise UserError(
                    f'{where}: no text; a line must be like {{"text": "..."}}; correct it or leave the file out'
                )
            # JSON can hold what UTF-8 cannot (half of a surrogate pair), and the zero byte of a binary file.
            text = _decode(row["text"].encode("utf-8", "surrogatepass"), dropped)
            if text is not None:
                yield _from_row(text, row, file)


def _from_row(text: str, row: dict[str, object], file: Path) -> Document:
    group = row.get("source")
    return Document(
        text,
        group=None if group is None else str(group),
        path=str(row.get("path") or file),
        licence=str(row.get("licence") or row.get("license") or "unknown"),
    )


def _generate(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Yield `max_bytes` of generated text: independent draws, of which equal ones are on one side of the split."""
    from src.data import embedded  # not needed by who brings text

    if corpus.max_bytes is None:
        raise UserError(f"data.{corpus_name}.max_bytes=null: say how much to generate, such as 2500000")
    generate = {"stories": embedded.generate_stories, "scripts": embedded.generate_scripts}[corpus.source]
    for document in generate(seed, corpus.max_bytes):
        yield Document(document.text, path=document.kind, licence="generated", bits=document.bits)


Source = Callable[[CorpusConfig, str, int, Counter[str], Path], Iterator[Document]]
SOURCES: dict[str, Source] = {"stories": _generate, "scripts": _generate, "local": _read_local, "hub": _read_hub}
GENERATED = ("stories", "scripts")
