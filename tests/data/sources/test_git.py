"""Documents, counts and safety of fetched repositories, which the tests create with various problems."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from src.config.schema import ROOT, CorpusConfig, HygieneConfig, UserError
from src.data.document import Document
from src.data.sources import git
from src.data.sources.registry import read_documents
from src.data.sources.repository_list import Repository, load_repositories
from tests.data.filters.test_licenses import BSD, GPL, MIT

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")

SCRIPT = "#!/bin/bash\nfor file in *.{0}; do\n    cp -- \"$file\" /backup/{0}\ndone\necho 'copied all {0} files'\n"
Make = Callable[..., Repository]


def run(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Create a repository of files (path -> text, bytes, or a Path that becomes a symbolic link)."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Somebody")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "user@example.com")

    def build(name: str, files: dict[str, str | bytes | Path], **settings: str) -> Repository:
        folder = tmp_path / "upstream" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            run(folder, "init", "-q")
            run(folder, "config", "uploadpack.allowFilter", "true")
        for path, content in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                file.symlink_to(content)
            else:
                file.write_bytes(content.encode() if isinstance(content, str) else content)
        run(folder, "add", "-A", "-f")
        run(folder, "commit", "-q", "--allow-empty", "-m", "files")
        return Repository(f"file://{folder}", **settings)

    return build


def write_list(tmp_path: Path, *repositories: Repository) -> str:
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump([vars(repository) for repository in repositories]))
    return str(path)


def read(
    tmp_path: Path, *repositories: Repository, **settings: object
) -> tuple[list[Document], Counter[str], Counter[str]]:
    dropped, replaced = Counter[str](), Counter[str]()
    corpus = replace(
        CorpusConfig(source="git", repositories=write_list(tmp_path, *repositories), extensions=[".sh", ".bash"]),
        **settings,  # pyright: ignore[reportArgumentType]
    )
    documents = list(read_documents(corpus, "code", 0, dropped, tmp_path / "cache", replaced))
    return documents, +dropped, replaced


def paths(documents: list[Document]) -> list[str]:
    return [document.path for document in documents]


def head(repository: Repository) -> str:
    return run(Path(repository.url.removeprefix("file://")), "rev-parse", "HEAD")


def test_documents_of_repositories(tmp_path: Path, make: Make) -> None:
    one = make("one", {"LICENSE": MIT, "bin/tool": SCRIPT.format("a"), "lib/b.sh": SCRIPT.format("b"), "x.py": "x=1"})
    documents, dropped, replaced = read(tmp_path, one)
    assert [(item.path, item.license, item.revision, item.group) for item in documents] == [
        ("bin/tool", "MIT", head(one), one.name),
        ("lib/b.sh", "MIT", head(one), one.name),
    ]
    assert documents[0].text == SCRIPT.format("a").rstrip("\n")
    assert not dropped and not replaced
    pinned = tmp_path / "cache" / "git" / "list.pinned.yaml"
    corpus = CorpusConfig(source="git", repositories=str(pinned))
    assert load_repositories(corpus, "code") == [replace(one, commit=head(one))], "the pinned list reproduces the data"
    shutil.rmtree(tmp_path / "upstream")
    corpus.extensions = [".sh"]
    again = list(read_documents(corpus, "code", 0, Counter(), tmp_path / "cache"))
    assert again == documents, "already fetched"


def test_problem_files_are_dropped_by_reason(tmp_path: Path, make: Make) -> None:
    """Each problem is left out with its reason or repaired; reading continues."""
    secret = "ghp_" + "q8Zr3TnV0xLw7KpYc5Jd2MgHs9Fb1QuEa4No"
    copy = SCRIPT.format("pdf") * 9 + "# the end of a long script that is copied with a word changed\n"
    wide = "# " + " ".join(f"word{number}" for number in range(30)) + "\n"
    one = make(
        "one",
        {
            "LICENSE": MIT,
            "crlf.sh": "#!/bin/sh\r\necho one two three four five\r\n",
            "no_shebang.sh": "echo no shebang at all in here\n",
            "shebang.txt": SCRIPT.format("txt"),
            "python.sh": "#!/usr/bin/env python3\nprint()\n",
            "tool.zsh": "#!/bin/zsh\necho z\n",
            "binary.sh": b"#!/bin/sh\n\0\x7f\n",
            "latin.sh": "# caf\xe9\necho\n".encode("latin-1"),
            "huge.sh": "echo a line of a huge file\n" * 20_000,
            "empty.sh": "\n \n",
            "generated.sh": "#!/bin/sh\n# Generated by GNU Autoconf 2.71.\necho\n",
            "long.sh": "echo " + "x" * 1200,
            "minified.sh": wide * 30,
            "signs.sh": "#" + "=-" * 200,
            "secret.sh": f"export GITHUB_TOKEN={secret} # of jo@mail.org, keep it\n",
            "outside.sh": Path("/etc/profile"),
            "inside.sh": Path("crlf.sh"),
            "copy.sh": copy,
            "gpl/COPYING": GPL,
            "gpl/a.sh": SCRIPT.format("gpl"),
            "header.sh": "# SPDX-License-Identifier: GPL-3.0-only\n" + SCRIPT.format("header"),
        },
    )
    two = make("two", {"a.sh": SCRIPT.format("two")})
    three = make(
        "three",
        {
            "LICENSE": BSD,
            "again.sh": copy,
            "near.sh": copy.replace("copied with", "copied and"),
            "z.sh": SCRIPT.format("z"),
        },
    )
    documents, dropped, replaced = read(tmp_path, one, two, three)
    assert paths(documents) == ["copy.sh", "crlf.sh", "no_shebang.sh", "secret.sh", "shebang.txt", "z.sh"]
    texts = {document.path: document.text for document in documents}
    assert texts["crlf.sh"] == "#!/bin/sh\necho one two three four five"
    assert texts["secret.sh"] == "export GITHUB_TOKEN=REDACTED_SECRET # of user@example.com, keep it"
    assert dropped == {
        "binary": 1,
        "not UTF-8": 1,
        "too large": 1,
        "empty": 1,
        "generated file": 1,
        "long line": 1,
        "long lines on average": 1,
        "few letters": 1,
        "licence GPL-2.0": 1,
        "licence GPL-3.0-only": 1,
        "licence unknown": 1,
        "duplicate": 1,
        "near duplicate": 1,
    }
    assert replaced == {"secret": 1, "e-mail address": 1}


def test_filters_can_be_disabled(tmp_path: Path, make: Make) -> None:
    one = make("one", {"a.sh": "# Generated by hand\n# jo@mail.org\n" + "echo\n" * 9, "b.sh": "echo " + "x" * 1500})
    off = HygieneConfig(200_000, 2000, 2000, 0.0, False, False, False)
    documents, dropped, replaced = read(tmp_path, one, hygiene=off, licences=["any"])
    assert len(documents) == 2 and not dropped and not replaced
    assert {document.license for document in documents} == {"unknown"}


def test_large_files_are_counted_where_the_server_cannot_filter(tmp_path: Path, make: Make) -> None:
    one = make("one", {"LICENSE": MIT, "huge.sh": "echo a line of a huge file\n" * 20_000, "a.sh": SCRIPT.format("a")})
    run(tmp_path / "upstream" / "one", "config", "uploadpack.allowFilter", "false")
    documents, dropped, _ = read(tmp_path, one)
    assert paths(documents) == ["a.sh"] and dropped == {"too large": 1}


def test_submodules_are_not_followed(tmp_path: Path, make: Make) -> None:
    inner = make("inner", {"LICENSE": MIT, "inner.sh": SCRIPT.format("inner")})
    outer = make("outer", {"LICENSE": MIT, "outer.sh": SCRIPT.format("outer")})
    folder = tmp_path / "upstream" / "outer"
    run(folder, "-c", "protocol.file.allow=always", "submodule", "add", "-q", inner.url, "module")
    run(folder, "commit", "-q", "-m", "submodule")
    assert paths(read(tmp_path, outer)[0]) == ["outer.sh"]


def test_license_above_a_subfolder_applies(tmp_path: Path, make: Make) -> None:
    one = make(
        "one", {"LICENSE": MIT, "in/deep/a.sh": SCRIPT.format("a"), "inner.sh": SCRIPT.format("b")}, subfolder="/in/"
    )
    assert [(item.path, item.license) for item in read(tmp_path, one)[0]] == [("in/deep/a.sh", "MIT")]


def test_license_of_the_list_applies_where_none_is_found(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make("one", {"README": "MIT", "a.sh": SCRIPT.format("a")}, licence="MIT")
    two = make("two", {"LICENSE": GPL, "b.sh": SCRIPT.format("b")}, licence="MIT")
    documents, dropped, _ = read(tmp_path, one, two)
    assert paths(documents) == ["a.sh"] and dropped == {"licence GPL-2.0": 1}
    assert f"{two.name}: its license is GPL-2.0, not MIT as in the list" in capsys.readouterr().out


def test_documents_per_repository_are_limited_by_hash(tmp_path: Path, make: Make) -> None:
    one = make("one", {f"{number:02}.sh": f"echo the script of number {number} x{number}\n" for number in range(20)})
    two = make("two", {"a.sh": SCRIPT.format("two")})
    documents, dropped, _ = read(tmp_path, one, two, licences=["any"], max_documents_per_group=5)
    assert len(documents) == 6 and documents[-1].path == "a.sh"
    assert paths(documents)[:5] == sorted(paths(documents)[:5]) != [f"{number:02}.sh" for number in range(5)]
    assert dropped == {"beyond the limit of its group": 15}
    assert read(tmp_path, one, two, licences=["any"], max_documents_per_group=5)[0] == documents


def test_max_bytes_and_other_languages(tmp_path: Path, make: Make) -> None:
    one = make("one", {"LICENSE": MIT, "a.py": "print('a python file')\n", "b.py": "import os, sys, re\n", "c": SCRIPT})
    assert paths(read(tmp_path, one, extensions=["py"])[0]) == ["a.py", "b.py"]
    assert paths(read(tmp_path, one, extensions=["py"], max_bytes=30)[0]) == ["a.py"]


def test_fetched_repositories_are_not_fetched_again(tmp_path: Path, make: Make) -> None:
    one = make("one", {"LICENSE": MIT, "a.sh": SCRIPT.format("a")})
    first = read(tmp_path, one)
    old = head(one)
    make("one", {"b.sh": SCRIPT.format("b")})
    assert read(tmp_path, one) == first, "the newest commit of the first fetch is kept"
    pinned = replace(one, commit=old)
    assert read(tmp_path, pinned) == first, "a commit that is not the newest"
    shutil.rmtree(tmp_path / "upstream")
    assert read(tmp_path, one) == read(tmp_path, pinned) == first, "no request to the server"


def test_unavailable_repositories_are_left_out(tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    one = make("one", {"LICENSE": MIT, "a.sh": SCRIPT.format("a")})
    gone = Repository(f"file://{tmp_path}/upstream/gone")
    empty = tmp_path / "upstream" / "empty"
    empty.mkdir()
    run(empty, "init", "-q")
    unborn = Repository(f"file://{empty}")
    other = replace(make("other", {"b.sh": SCRIPT.format("b")}), commit="1" * 40)
    documents, dropped, _ = read(tmp_path, gone, unborn, one, other)
    assert paths(documents) == ["a.sh"] and dropped == {"repository that could not be fetched": 3}
    output = capsys.readouterr().out
    for repository in (gone, unborn, other):
        assert f"left out {repository.name}: " in output
    assert sorted(path.name for path in (tmp_path / "cache" / "git").glob("*@*")) == [
        git.repository_folder(one, tmp_path / "cache" / "git", 200_000).name
    ]
    with pytest.raises(
        UserError, match=r"^data\.code\.repositories=\S+: no repository could be fetched; \S+: \S"
    ) as error:
        read(tmp_path, gone, unborn)
    assert "\n" not in str(error.value)


def test_missing_git_is_an_error(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make("one", {"a.sh": SCRIPT.format("a")})
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^git: not found; install it"):
        read(tmp_path, one)


def test_git_never_prompts_and_never_runs_hooks(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a template with hooks nor a surrounding repository has an effect."""
    mark, template = tmp_path / "mark", tmp_path / "template"
    for hook in ("post-checkout", "reference-transaction", "post-merge"):
        (template / "hooks").mkdir(parents=True, exist_ok=True)
        (template / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (template / "hooks" / hook).chmod(0o755)
    one = make("one", {"LICENSE": MIT, "a.sh": SCRIPT.format("a")})
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(template))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "upstream" / "one" / ".git"))
    assert paths(read(tmp_path, one)[0]) == ["a.sh"]
    assert not mark.exists()


def test_a_slow_server_times_out(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "TIMEOUT_SECONDS", 0.001)
    one = make("one", {"a.sh": SCRIPT.format("a")})
    assert git.fetch_repository(one, tmp_path / "cache", 1000) == "not fetched within 0.001 s"


@pytest.mark.slow
def test_a_killed_fetch_leaves_no_partial_repository(tmp_path: Path, make: Make) -> None:
    """After a kill at any time, the next attempt has the complete repository, and no other files remain."""
    one = make("one", {"LICENSE": MIT, **{f"{n}.sh": SCRIPT.format(n) + os.urandom(4000).hex() for n in range(150)}})
    corpus = f"CorpusConfig(source='git', repositories={write_list(tmp_path, one)!r}, extensions=['.sh'])"
    code = (
        "from pathlib import Path; from collections import Counter; from src.config.schema import CorpusConfig; "
        "from src.data.sources.registry import read_documents; "
        f"list(read_documents({corpus}, 'code', 0, Counter(), Path({str(tmp_path / 'cache')!r})))"
    )
    killed = 0
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
        while process.poll() is None and not list((tmp_path / "cache").glob("git/.*.tmp")):
            time.sleep(0.002)
        time.sleep(delay)
        killed += process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        documents, dropped, _ = read(
            tmp_path, one, hygiene=replace(HygieneConfig(), max_line_length=10_000, max_mean_line_length=10_000)
        )
        assert len(documents) == 150 and not dropped
        assert not list((tmp_path / "cache" / "git").glob(".*.tmp"))
    assert killed >= 2


def damage_pack(repository: Path) -> None:
    files = [path for path in (repository / "objects").rglob("*") if path.is_file()]
    pack = max(files, key=lambda path: path.stat().st_size)  # the others may be empty
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": damage_pack,
    "no objects": lambda folder: shutil.rmtree(folder / "objects"),
    "no head": lambda folder: (folder / "HEAD").unlink(),
    "another head": lambda folder: (folder / "HEAD").write_text("ref: refs/heads/main"),
    "a folder for a file": lambda folder: ((folder / "HEAD").unlink(), (folder / "HEAD").mkdir()),
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
    "a hook": lambda folder: ((folder / "hooks").mkdir(exist_ok=True), (folder / "hooks" / "x").write_text("")),
    "a damaged record": lambda folder: (folder / git.CONTENTS).write_text("[" * 100_000),
    "an empty record": lambda folder: (folder / git.CONTENTS).write_text("{}"),
}


@pytest.mark.parametrize("earlier", [False, True])
def test_a_damaged_repository_is_fetched_again(earlier: bool, tmp_path: Path, make: Make) -> None:
    one = make("one", {"LICENSE": MIT, "a.sh": SCRIPT.format("a"), "big.sh": "x" * 300_000})
    documents = read(tmp_path, one)[0]
    (folder,) = (path for path in (tmp_path / "cache" / "git").iterdir() if path.is_dir())
    for name, damage in DAMAGES.items():
        if earlier:  # an earlier version wrote no record
            if name in ("a hook", "a damaged record", "an empty record"):
                continue
            (folder / git.CONTENTS).unlink()
            assert git.is_intact(folder) and (folder / git.CONTENTS).exists()
            (folder / git.CONTENTS).unlink()
        damage(folder)
        assert not git.is_intact(folder), name
        assert read(tmp_path, one)[0] == documents, name
        assert git.is_intact(folder)
    damage_pack(folder)
    shutil.rmtree(tmp_path / "upstream")
    with pytest.raises(UserError, match="no repository could be fetched"):
        read(tmp_path, one)


def test_control_characters_never_reach_the_terminal(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make("one", {"LICENSE": MIT, "a.sh": SCRIPT.format("a")})
    with pytest.raises(UserError, match=r"url=file://.*has characters that cannot be shown") as error:
        read(tmp_path, one, replace(one, url="file:///\x1b[31mred"))
    assert "\x1b" not in str(error.value)
    with pytest.raises(git._GitError) as output:
        git._git(tmp_path, "checkout", "\x1b[31m\x07")
    assert "\x1b" not in str(output.value) and "\x07" not in str(output.value)
    assert "\x1b" not in capsys.readouterr().err
