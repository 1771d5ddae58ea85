"""Decide which corpora a path of the user's own text holds: language, code or both.

A file is code if it is a script, or records of which most are scripts; a folder holds the corpora of its files.
"""

from collections import Counter
from itertools import islice
from pathlib import Path

from src.config.schema import CorpusConfig, UserError
from src.data.document import Document
from src.data.sources.compression import DamagedFile, inner_name, read_head
from src.data.sources.file_formats import RECORDS, file_extension, read_file
from src.data.sources.local import find_files, normalize_extensions
from src.data.sources.record_files import NotRecords
from src.data.sources.shell_detection import HEAD_BYTES, is_code_file, is_shell

SAMPLE_RECORDS = 50
"""Records of a file that decide whether it is code."""


def corpora_of(path: str, language_extensions: list[str], code_extensions: list[str]) -> list[str]:
    """Return the corpora that a file, folder or glob holds, of language and code.

    Raises: UserError if it holds no text, or if records or named files leave open what is read as what.
    """
    files: dict[str, dict[Path, bool]] = {}
    for name, extensions in (("language", language_extensions), ("code", code_extensions)):
        corpus = CorpusConfig(source="local", paths=[path], extensions=extensions)
        try:
            files[name] = find_files(corpus, name, Counter())
        except UserError as error:
            raise UserError(str(error).replace(f"data.{name}.paths=[{path}]", f"data={path}", 1)) from None
    # Files that both would read, such as records: one corpus reads them, so nothing else may be in the other.
    shared = files["language"].keys() & files["code"].keys()
    found = {name for name, own in files.items() if own.keys() - shared}
    found |= {"code" if _is_code(file, code_extensions) else "language" for file in sorted(shared)}
    if len(found) > 1 and shared:
        raise UserError(
            f"data={path}: has both language and code, and {sorted(shared)[0]} may be either; "
            f"give data=local data.language.paths=[...] data.code.paths=[...]"
        )
    if not found:
        raise UserError(
            f"data={path}: no text ({', '.join(language_extensions)}, {', '.join(RECORDS)}) and no shell scripts "
            "there; other endings are given as data.language.extensions=[.rst] or data.code.extensions=[.py]"
        )
    return sorted(found, reverse=True)


def _is_code(file: Path, extensions: list[str]) -> bool:
    if file_extension(file.name) not in RECORDS:
        return is_code_file(inner_name(str(file)), read_head(file, HEAD_BYTES), normalize_extensions(extensions))
    corpus = CorpusConfig(source="local", paths=[str(file)])
    try:
        records = read_file(file, corpus, "code", (), True, Counter())
        sample = list(islice(records, SAMPLE_RECORDS))
    except (NotRecords, DamagedFile, OSError, UserError):  # reading it as a corpus says what is wrong
        return False
    return 2 * sum(map(_is_script, sample)) > len(sample)


def _is_script(document: Document) -> bool:
    name = document.path if document.file else ""  # the path that the record gives
    return is_shell(name, document.text.encode()[:HEAD_BYTES])
