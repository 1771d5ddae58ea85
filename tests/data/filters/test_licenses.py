"""Licenses are identified by their sentences anywhere in a file, and filters accept only known and allowed ones."""

from importlib.metadata import distributions
from pathlib import Path

import pytest

from src.data.filters.licenses import (
    PERMISSIVE,
    SENTENCES,
    UNKNOWN,
    header_license,
    identify_folder_license,
    identify_license,
    is_allowed,
    is_license_file,
    normalize_license,
    spdx_names,
)

MIT = """The MIT License (MIT)

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, ... subject to the following
conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.
"""
BSD = """Redistribution and use in source and binary forms, with or without modification, are permitted
provided that the following conditions are met: ...
"""
NAMES = "The name may not be used to endorse or promote products derived from this software without specific prior ..."
GPL = "                    GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991\n"
DEBIAN = Path("/usr/share/common-licenses")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (MIT, "MIT"),
        (MIT.replace("\n", "\n * ").upper(), "MIT"),
        (MIT[: MIT.index("The above")], "MIT-0"),
        (BSD, "BSD-2-Clause"),
        (BSD + NAMES, "BSD-3-Clause"),
        (GPL, "GPL-2.0"),
        (f"# Licences\n{MIT}\n{GPL}", "GPL-2.0 AND MIT"),
        ("All rights reserved. See the MIT License, or the GPL.", UNKNOWN),
        ("", UNKNOWN),
    ],
)
def test_licenses_are_identified_by_sentences(text: str, name: str) -> None:
    assert identify_license(text) == name


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="no Debian")
@pytest.mark.parametrize(
    "name", ["Apache-2.0", "CC0-1.0", "GPL-2", "GPL-3", "LGPL-2.1", "LGPL-3", "MPL-2.0", "MPL-1.1"]
)
def test_full_license_texts_are_identified(name: str) -> None:
    assert identify_license((DEBIAN / name).read_text()).startswith(name)


def test_licenses_of_installed_packages() -> None:
    """The license in the files of installed packages equals their declared SPDX license."""
    known = {name for name, _, _ in SENTENCES}
    right, wrong = 0, {}
    for package in distributions():
        declared = package.metadata.json.get("license_expression")
        files = [file for file in package.files or [] if "licenses" in file.parts and is_license_file(file.name)]
        if declared in known and files:
            found = " AND ".join(identify_license(file.read_text(encoding="utf-8")) for file in files)
            right += declared in found.split(" AND ")
            wrong |= {} if declared in found.split(" AND ") else {package.name: (declared, found)}
    assert right > 10 * len(wrong), wrong


@pytest.mark.parametrize(
    "name", ["LICENSE", "licence.md", "COPYING.LESSER", "UNLICENSE", "LICENSE-MIT", "mit-license.txt"]
)
def test_license_file_names(name: str) -> None:
    assert is_license_file(name)


@pytest.mark.parametrize("name", ["check-license.sh", "license.py", "README.md", "licensed", "copyingmachine"])
def test_other_file_names_are_not_licenses(name: str) -> None:
    assert not is_license_file(name)


def test_license_of_a_folder() -> None:
    files = {"LICENSE": MIT, "COPYING": GPL, "LICENSE.other": "ask me", "main.sh": BSD}
    assert identify_folder_license(files, files.__getitem__) == "GPL-2.0 AND MIT"
    assert identify_folder_license(["main.sh"], files.__getitem__) == UNKNOWN


def test_license_header_of_a_file() -> None:
    assert header_license("#!/bin/sh\n# SPDX-License-Identifier: GPL-2.0-only OR\tMIT\necho") == "GPL-2.0-only OR MIT"
    assert header_license("/* SPDX-License-Identifier: MIT */") == "MIT"
    assert header_license("# (spdx-license-identifier: mit)") == "MIT"
    assert header_license("# SPDX-License-Identifier: (MIT OR gpl-2.0) AND ISC") == "(MIT OR GPL-2.0) AND ISC"
    assert header_license("x" * 5000 + "SPDX-License-Identifier: MIT") is None


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0", False),
        (UNKNOWN, False),
        ("GPL-2.0-only OR MIT", True),
        ("GPL-2.0 AND MIT", False),
        ("Apache-2.0 AND MIT", True),
        ("Apache-2.0 WITH LLVM-exception", False),
        ("(MIT OR GPL-3.0)", True),
        ("MIT AND (GPL-2.0 OR ISC)", True),
        ("MIT AND (GPL-2.0 OR LGPL-2.1)", False),
        ("(MIT AND GPL-2.0) OR (ISC AND Zlib)", True),
        ("mit or gpl-3.0", True),
        ("MIT OR", False),
        ("(MIT", False),
        ("MIT)", False),
        ("", False),
        ("(" * 100_000, False),
    ],
)
def test_allowed_expressions(licence: str, allowed: bool) -> None:
    assert is_allowed(licence, PERMISSIVE) is allowed


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("mit", "MIT"),
        ("MIT License", "MIT"),
        ("the mit licence", "MIT"),
        ("apache 2.0", "Apache-2.0"),
        ("Apache License, Version 2.0", "Apache-2.0"),
        ("bsd-3-clause", "BSD-3-Clause"),
        ("gpl-3.0-only", "GPL-3.0-only"),
        ("GPLv3", "GPL-3.0"),
        ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
        ("(mit or apache-2.0) and isc", "(MIT OR Apache-2.0) AND ISC"),
        (["mit"], "MIT"),
        (["MIT", "apache-2.0", "mit"], "MIT AND Apache-2.0"),
        (["MIT OR ISC", "Zlib"], "(MIT OR ISC) AND Zlib"),
        ([], UNKNOWN),
        ([None], UNKNOWN),
        (None, UNKNOWN),
        ("", UNKNOWN),
        ("of our house", "of our house"),
        ("(" * 400, "(" * 400),
        ("x" * 100_000, "x" * 100_000),
    ],
)
def test_license_spellings_are_normalized(value: object, name: str) -> None:
    assert normalize_license(value) == name


@pytest.mark.parametrize(
    ("licence", "named", "allowed"),
    [
        ("MIT", ["mit"], True),
        ("Apache-2.0", ["mit OR apache-2.0"], True),
        ("GPL-2.0-or-later", ["gpl-2.0"], True),
        ("GPL-2.0+", ["GPL-2.0-only"], True),
        ("GPL-2.0", ["GPL-2.0-only"], True),
        ("GPL-2.0-only", ["GPL-2.0-or-later"], False),
        ("Apache-2.0 WITH LLVM-exception", ["apache-2.0 with llvm-exception"], True),
        ("of our house", ["Of our house"], True),
        (UNKNOWN, ["mit"], False),
    ],
)
def test_license_names_ignore_case(licence: str, named: list[str], allowed: bool) -> None:
    assert is_allowed(licence, spdx_names(named)) is allowed
