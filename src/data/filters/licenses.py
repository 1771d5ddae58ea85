"""Identify the license of a code file from its own header or from the nearest license file above it.

Licenses have their SPDX names (spdx.org/licenses). A license file is identified by sentences that only this license
has, whatever text is around them; with sentences of two licenses, both apply. A file without such sentences is
"unknown", which no license filter accepts.
"""

import ast
import posixpath
import re
from collections.abc import Callable, Collection
from functools import lru_cache

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from src.data.document import UNKNOWN

PERMISSIVE = frozenset(
    "0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 BlueOak-1.0.0 CC0-1.0 ISC MIT MIT-0 Unlicense WTFPL Zlib".split()
)
"""Licenses that only require that their notice is kept."""

MIT_GRANT = "permission is hereby granted free of charge to any person obtaining a copy of this software and associated"
ISC_GRANT = (
    "permission to use copy modify and or distribute this software for any purpose with or without fee is hereby"
)
BSD_GRANT = "redistribution and use in source and binary forms with or without modification are permitted provided that"
BSD_NAMES = "used to endorse or promote products derived from this software without specific"

SENTENCES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("MIT", (MIT_GRANT, "this permission notice shall be included in all copies or substantial portions"), ()),
    ("MIT-0", (MIT_GRANT,), ("this permission notice shall be included",)),
    ("Apache-2.0", ("apache license version 2 0 january 2004",), ()),
    ("Apache-2.0", ("licensed under the apache license version 2 0",), ("apache license version 2 0 january 2004",)),
    ("BSD-4-Clause", (BSD_GRANT, "all advertising materials mentioning features or use of this software must"), ()),
    ("BSD-3-Clause", (BSD_GRANT, BSD_NAMES), ("all advertising materials mentioning",)),
    ("BSD-2-Clause", (BSD_GRANT,), (BSD_NAMES, "all advertising materials mentioning")),
    ("ISC", (ISC_GRANT + " granted provided that the above copyright notice",), ()),
    ("ISC", (ISC_GRANT.replace("and or", "and") + " granted provided that the above copyright notice",), ()),
    ("0BSD", (ISC_GRANT + " granted the software is provided as is",), ()),
    ("Zlib", ("altered source versions must be plainly marked as such",), ()),
    ("BSL-1.0", ("boost software license version 1 0 august 17th 2003",), ()),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",), ()),
    ("CC0-1.0", ("cc0 1 0 universal",), ()),
    ("WTFPL", ("do what the fuck you want to public license",), ()),
    ("BlueOak-1.0.0", ("blue oak model license version 1 0 0",), ()),
    ("GPL-2.0", ("gnu general public license version 2 june 1991",), ()),
    ("GPL-3.0", ("gnu general public license version 3 29 june 2007",), ()),
    ("LGPL-2.0", ("gnu library general public license version 2 june 1991",), ()),
    ("LGPL-2.1", ("gnu lesser general public license version 2 1 february 1999",), ()),
    ("LGPL-3.0", ("gnu lesser general public license version 3 29 june 2007",), ()),
    ("AGPL-3.0", ("gnu affero general public license version 3 19 november 2007",), ()),
    ("MPL-1.1", ("mozilla public license version 1 1",), ()),
    ("MPL-2.0", ("mozilla public license version 2 0",), ()),
    ("MPL-2.0", ("subject to the terms of the mozilla public license v 2 0",), ("license version 2 0",)),
    ("EPL-1.0", ("eclipse public license v 1 0",), ()),
    ("EPL-2.0", ("eclipse public license v 2 0",), ()),
    ("EUPL-1.2", ("european union public licence v 1 2",), ()),
    ("CDDL-1.0", ("common development and distribution license cddl version 1 0",), ()),
    ("Artistic-2.0", ("the artistic license 2 0",), ()),
    ("CC-BY-4.0", ("attribution 4 0 international",), ("sharealike 4 0 international", "noncommercial")),
    ("CC-BY-SA-4.0", ("attribution sharealike 4 0 international",), ()),
)
"""SPDX name, sentences that are present, sentences that are absent; in lower case, only letters, digits and spaces."""

LICENSE_FILE = re.compile(
    r"(?i)(?!.*\.(?:sh|bash|py|js|go|rb|c|h|html|ya?ml|json|in)$)"
    r"(?:(?:(?:un)?licen[cs]es?|copying)(?:[-_.].*)?|[\w.+-]+[-_.]licen[cs]e(?:\.(?:md|txt|rst))?)"
)
HEADER = re.compile(
    r"(?i)SPDX-License-Identifier:[ \t]*(\(*[\w.+-]+(?:\)*[ \t]+(?:OR|AND|WITH)[ \t]+\(*[\w.+-]+)*)(\)*)"
)
HEADER_CHARACTERS = 4096
MAX_LICENSE_BYTES = 200_000
"""Bytes of a license file that are read."""


def identify_license(text: str) -> str:
    """Return the license in the text of a license file; several are joined by AND."""
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    found = {
        name
        for name, present, absent in SENTENCES
        if all(sentence in words for sentence in present) and not any(sentence in words for sentence in absent)
    }
    return " AND ".join(sorted(found)) or UNKNOWN


def header_license(text: str) -> str | None:
    """Return the SPDX-License-Identifier near the beginning of a file, or None."""
    match = HEADER.search(text, 0, HEADER_CHARACTERS)
    if match is None:
        return None
    open_ones = match[1].count("(") - match[1].count(")")
    return normalize_license(match[1] + ")" * min(open_ones, len(match[2])))


def is_license_file(name: str) -> bool:
    """Return whether a file name is that of a license file."""
    return LICENSE_FILE.fullmatch(name) is not None


def identify_folder_license(names: Collection[str], read: Callable[[str], str]) -> str:
    """Return the license of the license files among `names`; several are joined by AND."""
    found = {identify_license(read(name)) for name in sorted(names) if is_license_file(name)} - {UNKNOWN}
    return " AND ".join(sorted({part for license_name in found for part in license_name.split(" AND ")})) or UNKNOWN


class LicenseFinder:
    """Finds the license of a folder: that of the nearest folder upwards with a license file, cached.

    names_in: returns the names in a folder. read: returns the text of a file. is_top: whether to stop at a folder.
    """

    def __init__(
        self, names_in: Callable[[str], Collection[str]], read: Callable[[str], str], is_top: Callable[[str], bool]
    ) -> None:
        self._names_in, self._read, self._is_top = names_in, read, is_top
        self._known: dict[str, str] = {}

    def find(self, folder: str) -> str:
        """Return the license of the files in a folder."""
        if folder not in self._known:
            license_name = identify_folder_license(
                self._names_in(folder), lambda name: self._read(posixpath.join(folder, name))
            )
            if license_name == UNKNOWN and not self._is_top(folder):
                license_name = self.find(posixpath.dirname(folder))
            self._known[folder] = license_name
        return self._known[folder]


SPELLINGS = {
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache2": "Apache-2.0",
    "bsd 2 clause": "BSD-2-Clause",
    "bsd 3 clause": "BSD-3-Clause",
    "new bsd": "BSD-3-Clause",
    "simplified bsd": "BSD-2-Clause",
    "boost": "BSL-1.0",
    "cc0": "CC0-1.0",
    "expat": "MIT",
    **{f"{name}v{v}": f"{name.upper()}-{v}.0" for name in ("gpl", "agpl", "lgpl") for v in (2, 3)},
    "mpl 2": "MPL-2.0",
}
"""Other spellings of SPDX names; in lower case, without `the` and `license`."""
MAX_EXPRESSION_CHARACTERS = 500
TERM = re.compile(r"\(|\)|[^\s()]+")
OPERATORS = {"(": "(", ")": ")", "and": "and", "with": "and", "or": "or"}
"""Terms of an SPDX expression that are no license, as in Python."""


def normalize_license(value: object) -> str:
    """Return a license as an SPDX expression: from a name in any case, an expression, or a list (joined by AND).

    Other text is returned unchanged; None and empty text are UNKNOWN.
    """
    if isinstance(value, list | tuple):
        found = [name for name in map(normalize_license, value) if name != UNKNOWN]
        parts = [f"({name})" if " OR " in name and len(found) > 1 else name for name in dict.fromkeys(found)]
        return " AND ".join(parts) or UNKNOWN
    return _normalize(value) if isinstance(value, str) else UNKNOWN if value is None else str(value)


@lru_cache(maxsize=4096)
def _normalize(text: str) -> str:
    text = " ".join(text.split())
    expression = text.replace("/", " OR ")  # the old form of Rust packages
    for candidate in (
        text,
        _to_spdx_name(text),
        expression,
        " ".join(_to_spdx_name(term) for term in TERM.findall(expression)),
    ):
        if len(candidate) > MAX_EXPRESSION_CHARACTERS:
            continue
        try:
            return str(canonicalize_license_expression(candidate))
        except (InvalidLicenseExpression, MemoryError, RecursionError, SyntaxError, ValueError):
            continue
    return text or UNKNOWN


def _to_spdx_name(text: str) -> str:
    """Return the SPDX name for another spelling of a license."""
    words = re.split(r"[\s,_-]+", text.lower())
    words = [word for word in words if word and word not in ("the", "license", "licence", "version")]
    name = " ".join(word.removeprefix("v").removeprefix(".").removesuffix(".0") for word in words)
    return SPELLINGS.get(name, "-".join(words) if 0 < len(words) < 4 else text)


def is_allowed(license_name: str, allowed: Collection[str]) -> bool:
    """Return whether the `allowed` licenses satisfy an SPDX expression: one side of an OR, both sides of an AND."""
    names = {name.lower() for name in allowed}
    if license_name.lower() in names:
        return True
    terms = (OPERATORS.get(term.lower()) or str(_is_named(term, names)) for term in TERM.findall(license_name))
    try:
        return _evaluate(ast.parse(" ".join(terms), mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError):
        return False


def _evaluate(node: ast.expr) -> bool:
    """Evaluate an expression of True, False, `and` and `or`. Raises: SyntaxError for any other."""
    match node:
        case ast.Constant(value=bool(value)):
            return value
        case ast.BoolOp(operator, values):
            found = [_evaluate(value) for value in values]  # all of them, so that none is invalid
            return any(found) if isinstance(operator, ast.Or) else all(found)
    raise SyntaxError


def _is_named(license_name: str, names: Collection[str]) -> bool:
    """Return whether a license is among lower-case names; GPL-2.0 means -only and satisfies -or-later."""
    name = license_name.lower()
    base = name.removesuffix("+").removesuffix("-or-later").removesuffix("-only")
    same = {name, base, f"{base}-only"} if name.endswith(("+", "-or-later")) else {base, f"{base}-only"}
    return not same.isdisjoint(names) or (name.endswith(("+", "-or-later")) and f"{base}-or-later" in names)


def spdx_names(license_names: Collection[str]) -> frozenset[str]:
    """Return the SPDX names of all licenses that are named, alone or in expressions."""
    expressions = {normalize_license(license_name) for license_name in license_names}
    parts = (TERM.findall(expression) for expression in expressions if " WITH " not in expression)
    return frozenset(expressions | {term for part in parts for term in part} - {"(", ")", "AND", "OR"})
