"""Local files: ignored files are not read, named files always are, and licenses are recorded."""

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from src.config.schema import CorpusConfig
from src.data.sources.local import list_local_files
from src.data.sources.registry import read_documents
from tests.data.filters.test_licenses import GPL, MIT


def write(folder: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def files_of(*paths: Path, extensions: tuple[str, ...] = (".py",)) -> list[str]:
    corpus = CorpusConfig(source="local", paths=[str(path) for path in paths], extensions=list(extensions))
    return sorted(file.name for file in list_local_files(corpus, "code", Counter()))


RULES = {
    ".gitignore": "*.log.py\n!keep.log.py\nbuild/\n/top.py\ndocs/*.py\n\\#hash.py\nspace.py \n**/deep/x.py\n# no\n",
    "sub/.gitignore": "!a.log.py\ninner.py\n/only.py\n",
    "sub/again/.gitignore": "*\n!open.py\n",
}
NAMES = """
    a.log.py keep.log.py top.py b.py docs/c.py docs/more/d.py build/e.py sub/build/f.py sub/a.log.py sub/b.log.py
    sub/inner.py sub/x/inner.py sub/only.py sub/x/only.py sub/top.py sub/again/open.py sub/again/shut.py
    #hash.py space.py
    q/deep/x.py q/deep/y.py""".split()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_gitignore_agrees_with_git(tmp_path: Path) -> None:
    write(tmp_path, RULES | dict.fromkeys(NAMES, "x"))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".git" / "info" / "exclude").write_text("b.py\n")
    asked = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        input="\n".join(NAMES),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    ignored = set(asked.stdout.split())
    assert 8 < len(ignored) < len(NAMES)
    taken = {
        str(file.relative_to(tmp_path))
        for file in list_local_files(
            CorpusConfig(source="local", paths=[str(tmp_path)], extensions=[".py"]), "code", Counter()
        )
    }
    assert taken == set(NAMES) - ignored
    within = {
        str(file.relative_to(tmp_path))
        for file in list_local_files(
            CorpusConfig(source="local", paths=[str(tmp_path / "sub")], extensions=[".py"]), "code", Counter()
        )
    }
    assert within == {name for name in taken if name.startswith("sub/")}, "rules of parent folders apply"


def test_gitignore_applies_without_git_but_not_to_named_files(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "out/\nb.py\n", "a.py": "a", "b.py": "b", "out/c.py": "c"})
    assert files_of(tmp_path) == ["a.py"]
    assert files_of(tmp_path, tmp_path / "b.py", tmp_path / "out") == ["a.py", "b.py", "c.py"], "named files are read"
    assert files_of(tmp_path / "*.py") == ["a.py", "b.py"], "files of a glob are read"
    (tmp_path / ".git").mkdir()
    assert files_of(tmp_path / "out") == ["c.py"], "a named folder is read although it is ignored"


def test_extensions_select_one_language(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "a", "tool": "#!/bin/sh\n", "b.sh": "b", "c.sh": "#!/usr/bin/env python3\n", "d.zsh": "d"})
    assert files_of(tmp_path, extensions=(".py",)) == ["a.py"]
    assert files_of(tmp_path, extensions=(".sh", ".bash")) == ["b.sh", "tool"]


def test_local_licenses_are_recorded_but_not_filtered(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "LICENSE": GPL,
            "one/.git/config": "",
            "one/LICENSE": MIT,
            "one/deep/er/a.py": "import one\n",
            "one/b.py": "# SPDX-License-Identifier: BSD-2-Clause\nimport two\n",
            "two/.git": "gitdir: elsewhere\n",
            "two/c.py": "import three\n",
            "three/d.py": "import four\n",
        },
    )
    corpus = CorpusConfig(source="local", paths=[str(tmp_path)], extensions=[".py"])
    documents = read_documents(corpus, "code", 0, Counter(), tmp_path)
    assert {Path(document.path).name: document.license for document in documents} == {
        "a.py": "MIT",
        "b.py": "BSD-2-Clause",
        "c.py": "unknown",  # licenses above a work tree do not apply
        "d.py": "GPL-2.0",
    }


def test_secrets_in_local_files_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "mail = 'jo@mail.org'\n"})
    replaced: Counter[str] = Counter()
    corpus = CorpusConfig(source="local", paths=[str(tmp_path)], extensions=[".py"])
    documents = list(read_documents(corpus, "code", 0, Counter(), tmp_path, replaced))
    assert documents[0].text == "mail = 'user@example.com'" and replaced == {"e-mail address": 1}
