"""Detect shell scripts by their first line, name or content.

A shebang decides if there is one: a script may have any name, and a `.sh` file may be Python. Sourced files have none;
they are detected by extension, by a comment for an editor or ShellCheck, by path (completions, profiles), or by calls
of bash builtins. Shells of other grammars (zsh, fish, PowerShell, csh) and Bats tests, which bash cannot parse, are
excluded.
"""

import re
from collections.abc import Collection
from pathlib import PurePosixPath

EXTENSIONS = frozenset({".sh", ".bash"})
OTHER_EXTENSIONS = frozenset(
    ".zsh .fish .ps1 .psm1 .csh .tcsh .elv .nu .xsh .bats .bat .cmd .py .rb .pl .pm .php .lua .js .mjs .cjs .ts "
    ".jsx .tsx .go .rs .c .h .cc .cpp .hpp .cs .m .java .kt .scala .groovy .clj .swift .hs .ml .r .jl .sql .css "
    ".scss .html .htm .xml .svg .json .yaml .yml .toml .ini .md .rst .adoc .csv .tsv .lock .sum .mod .proto .tf "
    ".nix .diff .patch .png .jpg .gif .ico .pdf .gz .bz2 .xz .zip .tar .woff .woff2 .ttf .jar .class .so .o .a "
    ".exe .bin .dat .po .pot .mo .erb .j2".split()
)
"""Extensions of files whose content is not checked."""
SHEBANG = re.compile(rb"#![ \t]*(?:\S*/)?(?:env[ \t]+(?:-\S+[ \t]+)*)?(?:\S*/)?(?:ba|da|a|k)?sh(?:\s|$)")
EDITOR_COMMENT = re.compile(
    rb"(?m)^[ \t]*#[^\n]*(?:shellcheck (?:shell=(?:ba|da|k)?sh\b|disable=|source=)"
    rb"|-\*-[^\n]*\b(?:sh|bash|shell-script)\b[^\n]*-\*-|\bvim?:[^\n]*\b(?:ft|filetype|syntax)=(?:ba)?sh\b)"
)
PROFILE_NAMES = re.compile(r"[._]?(?:bashrc|bash_(?:aliases|completion|functions|login|logout|profile|prompt)|profile)")
COMPLETIONS = re.compile(r"(?:^|/)(?:(?:bash[-_.]?)?completions?|bash_completion\.d)/")
BASH_BUILTINS = re.compile(rb"\b(?:complete -[A-Za-z]|compgen -|COMPREPLY=|shopt -s|declare -[aAf]|BASH_SOURCE)")
HEAD_BYTES = 4096


def may_be_code(path: str, extensions: Collection[str]) -> bool:
    """Return whether a file may be code with these extensions, judged by its name alone."""
    suffix = PurePosixPath(path).suffix.lower()
    return suffix in extensions or (suffix not in OTHER_EXTENSIONS and not EXTENSIONS.isdisjoint(extensions))


def is_code_file(path: str, head: bytes, extensions: Collection[str]) -> bool:
    """Return whether a file is code with these extensions; .sh or .bash stands for any shell script."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in extensions and suffix not in EXTENSIONS:
        return True
    return not EXTENSIONS.isdisjoint(extensions) and is_shell(path, head)


def is_shell(path: str, head: bytes) -> bool:
    """Return whether a file is a bash or sh script. path: its path in the repository. head: its first bytes."""
    head = head[:HEAD_BYTES]
    if head.startswith(b"#!"):
        return SHEBANG.match(head) is not None
    file = PurePosixPath(path)
    suffix = file.suffix.lower()
    if suffix in EXTENSIONS or PROFILE_NAMES.fullmatch(file.name):
        return True
    if suffix in OTHER_EXTENSIONS or head.startswith(b"#compdef") or b"\0" in head:  # #compdef marks a zsh completion
        return False
    in_place = COMPLETIONS.search(path) is not None and BASH_BUILTINS.search(head) is not None
    return in_place or EDITOR_COMMENT.search(head) is not None
