"""Tell a shell script from other files: by its first line, its name, or what is in it.

A shebang decides where there is one: a script may be called anything, and a `.sh` may be Python. What is sourced has
none: that is known by its extension, by a comment for an editor or ShellCheck, by its place (completions, profiles), or
by calling what only bash has. Shells of other grammars (zsh, fish, PowerShell, csh) are left out, and so are tests of
Bats, which bash itself cannot read.
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
"""Extensions of files that are not looked into."""
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
    """Tell by its name whether a file may be code with these extensions, so that it is worth looking into."""
    suffix = PurePosixPath(path).suffix.lower()
    return suffix in extensions or (suffix not in OTHER_EXTENSIONS and not EXTENSIONS.isdisjoint(extensions))


def is_code_file(path: str, head: bytes, extensions: Collection[str]) -> bool:
    """Tell whether a file is code with these extensions; where .sh or .bash is among them, that is any shell script."""
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in extensions and suffix not in EXTENSIONS:
        return True
    return not EXTENSIONS.isdisjoint(extensions) and is_shell(path, head)


def is_shell(path: str, head: bytes) -> bool:
    """Tell whether a file is a script of bash or sh. path: with `/`, as its repository has it; head: its beginning."""
    head = head[:HEAD_BYTES]
    if head.startswith(b"#!"):
        return SHEBANG.match(head) is not None
    file = PurePosixPath(path)
    suffix = file.suffix.lower()
    if suffix in EXTENSIONS or PROFILE_NAMES.fullmatch(file.name):
        return True
    if suffix in OTHER_EXTENSIONS or head.startswith(b"#compdef") or b"\0" in head:  # the second is a completion of zsh
        return False
    in_place = COMPLETIONS.search(path) is not None and BASH_BUILTINS.search(head) is not None
    return in_place or EDITOR_COMMENT.search(head) is not None
