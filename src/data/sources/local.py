"""Find the local files of a corpus.

Files that are named, or that a glob matches, are always read. Of a folder, the files of the corpus are read that git
does not ignore, because ignored files are often generated or private. pathspec evaluates .gitignore files, since a
folder may not be a work tree and git may not be installed.
"""

import glob
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

from src.config.schema import CorpusConfig, UserError
from src.data.document import ReadTally, add_note, count_dropped, count_skipped
from src.data.filters.licenses import MAX_LICENSE_BYTES, LicenseFinder
from src.data.sources.compression import inner_name, read_head
from src.data.sources.file_formats import PROJECT_FILES, RECORDS, file_extension, unsupported_reason
from src.data.sources.shell_detection import HEAD_BYTES, is_code_file, may_be_code
from src.runtime.atomic_files import file_sha256

MAX_GITIGNORE_CHARACTERS = 1_000_000
"""Characters of a .gitignore file that are read."""

Rules = list[tuple[str, GitIgnoreSpec]]
"""Folders with their .gitignore patterns, from the outermost to the innermost, which takes precedence."""


def list_local_files(corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]) -> list[Path]:
    """List the files of a local corpus, each once. Raises: UserError naming the path."""
    return list(find_files(corpus, corpus_name, dropped))


def find_files(corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]) -> dict[Path, bool]:
    """Map each file of a local corpus to whether the user named it, directly or by a glob. Raises: UserError."""
    key = f"data.{corpus_name}.paths"
    if not corpus.paths:
        example = "[~/stories,more/*.txt]" if corpus_name == "language" else "[~/scripts,more/**/*.sh]"
        raise UserError(f"{key} is empty: the local source needs files, folders or globs, such as {key}={example}")
    files: dict[str, tuple[Path, bool]] = {}
    for entry in corpus.paths:
        for file, is_named in _resolve_path(entry, corpus, corpus_name, dropped):
            files.setdefault(os.path.realpath(file), (file, is_named))
    return dict(files.values())


def check_sha256(corpus: CorpusConfig, corpus_name: str, files: list[Path]) -> None:
    """Check the file of a corpus against `sha256`. Raises: UserError."""
    if corpus.sha256 is None:
        return
    if len(files) != 1:
        raise UserError(
            f"data.{corpus_name}.paths={corpus.paths}: data.{corpus_name}.sha256 is for one file; name that file"
        )
    if (found := file_sha256(files[0])) != corpus.sha256:
        raise UserError(
            f"data.{corpus_name}.paths=[{files[0]}]: has SHA-256 {found}, not data.{corpus_name}.sha256="
            f"{corpus.sha256}; give that file"
        )


def _resolve_path(
    entry: str, corpus: CorpusConfig, corpus_name: str, dropped: Counter[str]
) -> Iterator[tuple[Path, bool]]:
    """Yield the files of one path, each with whether it is named directly or by a glob. Raises: UserError."""
    key = f"data.{corpus_name}.paths=[{entry}]"
    path = os.path.expanduser(entry)
    found = [path]
    if not os.path.exists(path) and glob.has_magic(path):
        found = sorted(glob.glob(path, recursive=True))
        if "**" in path:  # the glob descends itself, so folders that it matches are not read as a whole
            found = [match for match in found if os.path.isfile(match)]
        if not found:
            raise UserError(f"{key}: this glob finds nothing; correct it or leave it out")
    extensions = normalize_extensions(corpus.extensions)
    for match in found:
        if os.path.isfile(match):
            if (refusal := unsupported_reason(match, extensions, corpus_name)) is not None:
                raise UserError(f"{key}: {match} is not read: {refusal}; or leave it out")
            yield Path(match), True
        elif os.path.isdir(match):
            for file in _walk_folder(match, extensions, corpus_name, dropped):
                yield file, False
        else:
            reason = "is neither a file nor a folder" if os.path.exists(match) else "does not exist"
            raise UserError(f"{key}: it {reason}; correct it or leave it out")


def _walk_folder(root: str, extensions: set[str], corpus_name: str, dropped: Counter[str]) -> Iterator[Path]:
    """Yield the files of a folder that belong to the corpus, sorted; skip hidden and ignored folders."""
    rules = {root: _read_rules_above(root)}
    visited: set[str] = set()

    def count_error(error: OSError) -> None:
        count_dropped(dropped, "unreadable folder", 0, str(error.filename or ""))

    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=count_error):
        real = os.path.realpath(folder)
        if real in visited:  # a symbolic link to a parent folder
            subfolders.clear()
            continue
        visited.add(real)
        here = rules.pop(folder) + _read_rules_in(folder, dropped)
        taken: list[str] = []
        for name in sorted(subfolders):
            path = os.path.join(folder, name)
            reason = "hidden folder" if name.startswith(".") else "ignored folder"
            if reason == "ignored folder" and not _is_ignored(os.path.join(path, ""), here):
                taken.append(name)
            elif isinstance(dropped, ReadTally):  # computing the size is only worthwhile for the report
                count_skipped(dropped, reason, _folder_size(path), path, is_unexpected=False)
        subfolders[:] = taken
        rules |= {os.path.join(folder, name): here for name in subfolders}
        for file in (os.path.join(folder, name) for name in sorted(names)):
            relative = os.path.relpath(file, root).replace(os.sep, "/")
            reason, is_unexpected = _skip_reason(file, relative, extensions, corpus_name)
            if reason is None and _is_ignored(file, here):
                reason, is_unexpected = "ignored file", False
            if reason is None:
                yield Path(file)
            elif reason:
                count_skipped(dropped, reason, _file_size(file), file, is_unexpected)


def _folder_size(folder: str) -> int:
    return sum(_file_size(os.path.join(inner, name)) for inner, _, names in os.walk(folder) for name in names)


def _file_size(file: str) -> int:
    try:
        return os.lstat(file).st_size
    except OSError:
        return 0


def normalize_extensions(extensions: list[str]) -> set[str]:
    """Return extensions in lower case with their dot."""
    return {"." + extension.lower().lstrip(".") for extension in extensions}


def _skip_reason(file: str, relative: str, extensions: set[str], corpus_name: str) -> tuple[str | None, bool]:
    """Return why a file of a folder is skipped (None: it is read), and whether the user may have wanted its text."""
    name = os.path.basename(file)
    ending = file_extension(name)
    if not os.path.isfile(file):  # opening a pipe would block
        return ("broken link" if os.path.islink(file) else "no plain file"), False
    is_language = corpus_name == "language"
    if is_language and PROJECT_FILES.fullmatch(inner_name(name)):
        return "file about the others", False
    records = RECORDS if is_language else tuple(kind for kind in RECORDS if kind != ".json")
    if ending in records or (is_language and ending in extensions):
        refusal = unsupported_reason(name, extensions, corpus_name)
        return refusal and f"{ending} file: {refusal}", True
    if not is_language:
        inner = inner_name(relative)
        if may_be_code(inner, extensions) and is_code_file(inner, read_head(Path(file), HEAD_BYTES), extensions):
            refusal = unsupported_reason(name, extensions, corpus_name)
            return refusal and f"{ending} file: {refusal}", True
    kind = f"{ending} file" if ending else "file without an ending"
    return kind, is_language and not name.startswith(".")


def _read_rules_above(root: str) -> Rules:
    """Read the ignore rules of the work tree around a folder; none if they ignore the folder itself."""
    folder = os.path.abspath(root)
    above: list[str] = []
    while not os.path.exists(os.path.join(folder, ".git")):
        parent = os.path.dirname(folder)
        if parent == folder:
            return []  # no work tree
        folder = parent
        above.insert(0, folder)
    exclude = _read_rules(os.path.join(folder, ".git", "info", "exclude"), folder, Counter())
    rules = exclude + [rule for folder in above for rule in _read_rules_in(folder, Counter())]
    return [] if _is_ignored(os.path.join(os.path.abspath(root), ""), rules) else rules


def _read_rules_in(folder: str, dropped: Counter[str]) -> Rules:
    return _read_rules(os.path.join(folder, ".gitignore"), os.path.abspath(folder), dropped)


def _read_rules(file: str, folder: str, dropped: Counter[str]) -> Rules:
    """Read the patterns of a file; invalid patterns are noted and skipped."""
    if not os.path.isfile(file):
        return []
    try:
        with open(file, encoding="utf-8", errors="replace") as handle:
            lines = handle.read(MAX_GITIGNORE_CHARACTERS).splitlines()
    except OSError:
        add_note(dropped, f"{file} cannot be read: the files that it ignores are read")
        return []
    good = [line for line in lines if _is_pattern(line)]
    if len(good) < len(lines):
        add_note(dropped, f"{file}: {len(lines) - len(good)} lines are not valid patterns and are skipped")
    return [(folder, GitIgnoreSpec.from_lines(good))]


def _is_pattern(line: str) -> bool:
    try:
        GitIgnoreSpec.from_lines([line])
    except (ValueError, RecursionError, OverflowError):
        return False
    return True


def _is_ignored(path: str, rules: Rules) -> bool:
    """Return whether rules ignore a path, which ends in a slash if it is a folder."""
    path = os.path.abspath(path) + ("/" if path.endswith(os.sep) else "")
    for folder, spec in reversed(rules):
        verdict = spec.check_file(path[len(folder.rstrip("/")) + 1 :]).include
        if verdict is not None:
            return verdict
    return False


def local_license_finder() -> LicenseFinder:
    """Return a finder that looks upwards from a folder, up to its work tree, the user's home or the root."""

    def names_in(folder: str) -> list[str]:
        try:
            return os.listdir(folder)
        except OSError:
            return []

    def read(file: str) -> str:
        head = read_head(Path(file), MAX_LICENSE_BYTES) if os.path.isfile(file) else b""
        return head.decode(errors="replace")

    home = os.path.expanduser("~")

    def is_top(folder: str) -> bool:
        return folder == home or os.path.dirname(folder) == folder or os.path.exists(os.path.join(folder, ".git"))

    return LicenseFinder(names_in, read, is_top)
