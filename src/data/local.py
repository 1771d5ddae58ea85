"""Find the files of the user that a corpus is made of.

A file that is named, or that a glob finds, is always taken. Of a folder, those are taken that belong to the corpus and
that git would not ignore: what a project ignores was not written by hand, or was not meant to be shown. The .gitignore
files are read by pathspec, and git is not asked, since a folder may be no work tree and a machine may have no git.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from src.config import CorpusConfig, UserError
from src.data.licences import LICENCE_BYTES, NearestLicence
from src.data.shell import HEAD_BYTES, belongs, may_belong

Rules = list[tuple[str, GitIgnoreSpec]]
"""Folders with a .gitignore and what it says, from the outermost to the innermost; the innermost has its way."""


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
            yield from _walk(match, corpus, corpus_name, dropped)
        else:
            reason = "is neither a file nor a folder" if os.path.exists(match) else "does not exist"
            raise UserError(f"data.{corpus_name}.paths=[{entry}]: it {reason}; correct it or leave it out")


def _walk(root: str, corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]) -> Iterator[Path]:
    """Yield the files of a folder that belong to the corpus, sorted; hidden and ignored folders are passed over."""
    extensions = normalise_extensions(corpus.extensions)
    rules = {root: _rules_above(root)}
    visited: set[str] = set()

    def count_error(_: OSError) -> None:
        dropped["unreadable folder"] += 1

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=count_error):
        real = os.path.realpath(folder)
        if real in visited:  # a symbolic link back to a folder above
            subfolders.clear()
            continue
        visited.add(real)
        here = rules.pop(folder) + _rules_in(folder)
        subfolders[:] = sorted(
            name
            for name in subfolders
            if not name.startswith(".") and not _is_ignored(os.path.join(folder, name, ""), here)
        )
        rules |= {os.path.join(folder, name): here for name in subfolders}
        for file in (os.path.join(folder, name) for name in sorted(names)):
            relative = os.path.relpath(file, root).replace(os.sep, "/")
            if _is_wanted(file, relative, extensions, corpus_name) and not _is_ignored(file, here):
                yield Path(file)


def normalise_extensions(extensions: list[str]) -> set[str]:
    """Write extensions in lower case, with their dot."""
    return {"." + extension.lower().lstrip(".") for extension in extensions}


def _is_wanted(file: str, relative: str, extensions: set[str], corpus_name: str) -> bool:
    suffix = os.path.splitext(file)[1].lower()
    if not os.path.isfile(file):  # opening a pipe would wait for ever
        return False
    if suffix == ".jsonl" or corpus_name == "language":
        return suffix in extensions | {".jsonl"}
    return may_belong(relative, extensions) and belongs(relative, _head_of(file), extensions)


def _head_of(file: str, n_bytes: int = HEAD_BYTES) -> bytes:
    try:
        with open(file, "rb") as handle:
            return handle.read(n_bytes)
    except OSError:
        return b""  # its name decides; who reads it will count the error


def _rules_above(root: str) -> Rules:
    """Read what the work tree around a folder ignores in it; nothing, if it ignores the folder itself."""
    folder = os.path.abspath(root)
    above: list[str] = []
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return []  # no work tree
        folder = parent
        above.insert(0, folder)
    exclude = _read_rules(os.path.join(folder, ".git", "info", "exclude"), folder)
    rules = exclude + [rule for folder in above for rule in _rules_in(folder)]
    return [] if _is_ignored(os.path.join(os.path.abspath(root), ""), rules) else rules


def _rules_in(folder: str) -> Rules:
    return _read_rules(os.path.join(folder, ".gitignore"), os.path.abspath(folder))


def _read_rules(file: str, folder: str) -> Rules:
    try:
        with open(file, encoding="utf-8", errors="replace") as handle:
            return [(folder, GitIgnoreSpec.from_lines(handle))]
    except (OSError, ValueError):  # none is there, or it has a pattern that is none
        return []


def _is_ignored(path: str, rules: Rules) -> bool:
    """Tell whether rules ignore a path, which ends in a slash if it is a folder."""
    path = os.path.abspath(path) + ("/" if path.endswith(os.sep) else "")
    for folder, spec in reversed(rules):
        verdict = spec.check_file(path[len(folder.rstrip("/")) + 1 :]).include
        if verdict is not None:
            return verdict
    return False


def nearest_licence() -> NearestLicence:
    """Look for licences upwards from a folder, to where its work tree, the user's home or the disk begins."""

    def names_in(folder: str) -> list[str]:
        try:
            return os.listdir(folder)
        except OSError:
            return []

    def read(file: str) -> str:
        return _head_of(file, LICENCE_BYTES).decode(errors="replace") if os.path.isfile(file) else ""

    home = os.path.expanduser("~")

    def is_top(folder: str) -> bool:
        return folder == home or os.path.dirname(folder) == folder or os.path.exists(os.path.join(folder, ".git"))

    return NearestLicence(names_in, read, is_top)
