"""Tell under which licence a file of code is: from its own header, or from the nearest licence file above it.

Licences are named as SPDX does (spdx.org/licenses). A licence file is recognised by sentences that this licence alone
has, whatever else stands around them (a copyright line, a preamble, another licence: then both count). What has none
of them is "unknown", and no filter lets that pass.
"""

import posixpath
import re
from collections.abc import Callable, Collection

UNKNOWN = "unknown"
PERMISSIVE = frozenset(
    "0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 BlueOak-1.0.0 CC0-1.0 ISC MIT MIT-0 Unlicense WTFPL Zlib".split()
)
"""Licences that ask for no more than that their notice is kept."""

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
"""Name, words that are in it, words that are not; in lower case, with a space for whatever is no letter or digit."""

LICENCE_FILE = re.compile(
    r"(?i)(?!.*\.(?:sh|bash|py|js|go|rb|c|h|html|ya?ml|json|in)$)"
    r"(?:(?:(?:un)?licen[cs]es?|copying)(?:[-_.].*)?|[\w.+-]+[-_.]licen[cs]e(?:\.(?:md|txt|rst))?)"
)
HEADER = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+-]+(?:[ \t]+(?:OR|AND|WITH)[ \t]+[\w.+-]+)*)")
HEADER_CHARACTERS = 4096
LICENCE_BYTES = 200_000
"""So much of a licence file is read."""


def identify_licence(text: str) -> str:
    """Name the licence of a licence file; several are joined by AND."""
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    found = {
        name
        for name, present, absent in SENTENCES
        if all(sentence in words for sentence in present) and not any(sentence in words for sentence in absent)
    }
    return " AND ".join(sorted(found)) or UNKNOWN


def header_licence(text: str) -> str | None:
    """Return what a file's own SPDX-License-Identifier says, if it has one near its beginning."""
    match = HEADER.search(text, 0, HEADER_CHARACTERS)
    return " ".join(match.group(1).split()) if match else None


def is_licence_file(name: str) -> bool:
    """Tell by its name whether a file holds a licence."""
    return LICENCE_FILE.fullmatch(name) is not None


def licence_of_folder(names: Collection[str], read: Callable[[str], str]) -> str:
    """Name the licence that the licence files among `names` give; several are joined by AND."""
    found = {identify_licence(read(name)) for name in sorted(names) if is_licence_file(name)} - {UNKNOWN}
    return " AND ".join(sorted({part for licence in found for part in licence.split(" AND ")})) or UNKNOWN


class NearestLicence:
    """Licences of folders, each looked up once: that of the nearest folder upwards with a licence file.

    names_in: the names in a folder; read: the text of a file; is_top: whether to look no further up.
    """

    def __init__(
        self, names_in: Callable[[str], Collection[str]], read: Callable[[str], str], is_top: Callable[[str], bool]
    ) -> None:
        self._names_in, self._read, self._is_top = names_in, read, is_top
        self._known: dict[str, str] = {}

    def of(self, folder: str) -> str:
        """Name the licence of what lies in a folder."""
        if folder not in self._known:
            licence = licence_of_folder(self._names_in(folder), lambda name: self._read(posixpath.join(folder, name)))
            if licence == UNKNOWN and not self._is_top(folder):
                licence = self.of(posixpath.dirname(folder))
            self._known[folder] = licence
        return self._known[folder]


def is_allowed(licence: str, allowed: Collection[str]) -> bool:
    """Tell whether an SPDX expression is met by licences of `allowed`: one side of an OR, both of an AND."""
    return any(
        all(part.strip() in allowed for part in re.split(r"\s+(?:AND|WITH)\s+", side))
        for side in re.split(r"\s+OR\s+", licence)
    )
