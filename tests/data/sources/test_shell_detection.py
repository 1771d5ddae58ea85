"""Shell scripts are detected independently of their names."""

import pytest

from src.data.sources.shell_detection import is_code_file, is_shell, may_be_code

COMPLETION = "_tool() {\n    COMPREPLY=($(compgen -W 'a b' -- \"$2\"))\n}\ncomplete -F _tool tool\n"


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("tool", "#!/bin/bash -e\n"),
        ("tool", "#! /usr/bin/env -S bash -e\n"),
        ("notes.txt", "#!/bin/sh\n"),
        ("tool", "#! /usr/bin/env dash\n"),
        ("tool", "#!/usr/bin/env ksh\n"),
        ("bin/x.py", "#!/usr/local/bin/bash"),
        ("lib/a.sh", "a() { :; }\n"),
        ("lib/a.BASH", "\n"),
        ("misc/build.func", "# Copyright\n# shellcheck shell=bash\n"),
        ("lib/nova", "# -*- mode: shell-script; -*-\n"),
        ("functions", "# vim: sw=4 ft=sh\n"),
        ("completions/tool", COMPLETION),
        ("etc/bash_completion.d/tool", COMPLETION),
        (".bash_aliases", "alias ll='ls -l'\n"),
        ("dot/profile", "export A=b\n"),
    ],
)
def test_shell_scripts_are_detected(path: str, head: str) -> None:
    assert is_shell(path, head.encode())


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("tool.sh", "#!/usr/bin/env python3\n"),
        ("tool", "#!/bin/zsh\n"),
        ("tool.bash", "#!/usr/bin/fish\n"),
        ("a.zsh", "# shellcheck disable=SC1\n"),
        ("a.ps1", "# vim: ft=sh\n"),
        ("test/a.bats", "@test 'x' {\n"),
        ("test/a", "#!/usr/bin/env bats\n"),
        ("completions/_tool", "#compdef tool\ncompgen -W\n"),
        ("completions/tool", "just a text\n"),
        ("docs/tool", COMPLETION),
        ("LICENSE", "MIT\n"),
        ("Makefile", "all:\n\techo\n"),
        ("profile", "#!/usr/bin/perl\n"),
        ("bashful", "text\n"),
        (".bash_history", "ls\n"),
    ],
)
def test_other_files_are_not_shell(path: str, head: str) -> None:
    assert not is_shell(path, head.encode())


def test_code_is_matched_by_extensions() -> None:
    shell, python = {".sh", ".bash"}, {".py"}
    assert [path for path in ("a", "a.sh", "a.in", "a.GO", "b.png") if may_be_code(path, shell)] == [
        "a",
        "a.sh",
        "a.in",
    ]
    assert [path for path in ("a", "a.sh", "a.PY") if may_be_code(path, python)] == ["a.PY"]
    assert is_code_file("a", b"#!/bin/sh", shell) and not is_code_file("a", b"#!/bin/sh", python)
    assert is_code_file("a.py", b"#!/bin/sh", python) and not is_code_file("a.sh", b"#!/usr/bin/python", shell)
    assert is_code_file("a.zsh", b"#!/bin/zsh", {".sh", ".zsh"}), "extensions that the user names are code"
