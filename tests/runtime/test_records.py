"""Untrusted and damaged files: one-line errors, and names that never become paths."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import pytest

from src.config.schema import UserError
from src.runtime.atomic_files import (
    LockBusy,
    file_lock,
    find_folder,
    read_bytes,
    read_yaml,
    reject_symlinks,
    remove_stale_temporaries,
    replace_folder,
    write_bytes,
    write_yaml,
)
from src.runtime.log import replace_control_chars
from src.runtime.records import (
    child_path,
    digest_lines,
    find_record,
    is_plain_name,
    read_record,
    run_path,
    write_record,
)


class Note(TypedDict):
    """Schema of the records in these tests."""

    text: str
    numbers: list[int]


@dataclass
class Point:
    x: float


GOOD = {"text": "naïve", "numbers": [1, 2], "more": {"kept": 0.1}}


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.json"
    write_record(path, GOOD)
    return path


def test_record_round_trip_keeps_all_keys(note: Path, tmp_path: Path) -> None:
    assert read_record(note, Note, "remedy") == GOOD
    (tmp_path / "point.json").write_text('{"x": 1}')
    assert read_record(tmp_path / "point.json", Point, "remedy") == Point(1)


def test_every_changed_byte_of_a_record_is_found(note: Path) -> None:
    content, digest = note.read_bytes(), note.read_bytes().index(b'"record_sha256"')
    for place in range(len(content)):
        if digest < place <= digest + len("record_sha256"):  # without its name the digest is an unknown value
            continue
        changed = bytearray(content)
        changed[place] ^= 0x01
        note.write_bytes(changed)
        if changed[place] in b" \t\n\r" and content[place] in b" \t\n\r":
            continue
        with pytest.raises(UserError, match="note"):
            read_record(note, Note, "remedy")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a JSON file"),
        (b"{", "not a JSON file"),
        (b"[]", "(Expected `object`, got `array`); remedy"),
        (b"null", "Expected `object`, got `null`"),
        (b"{}", "missing required field `text`"),
        (b'{"text": 1, "numbers": []}', "Expected `str`, got `int` - at `$.text`"),
        (b'{"text": "", "numbers": [1, "a"]}', "at `$.numbers[1]`"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"text": "", "numbers": [' + b"9" * 5000 + b"]}", "a number of 5000 digits"),
        (b'{"text": "", "numbers": [1e999]}', "not a finite number"),
        (b'{"text": NaN}', "not a JSON file"),
        (b"\xff\xfe", "not a JSON file"),
    ],
)
def test_an_invalid_record_is_a_one_line_error(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_record(path, Note, "remedy")
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "link", "dangling", "endless", "missing"):
        with pytest.raises(UserError, match=name):
            read_bytes(tmp_path / name)
    with pytest.raises(UserError, match="not a regular file"):
        read_bytes(tmp_path / "endless", allow_links=True)
    assert read_bytes(tmp_path / "link", allow_links=True) == b"{}"


@pytest.mark.parametrize("name", ["dense-nano-s0-0a1b", "metrics", "é", "a.b+c", "x" * 200])
def test_a_plain_name_becomes_a_child_path(name: str) -> None:
    assert child_path(Path("runs"), name, ".json") == Path(f"runs/{name}.json")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc/passwd", "a/b", ".hidden", "a\0b", "a\nb", "x" * 201, 3, None]
)
def test_other_values_are_not_plain_names(name: object) -> None:
    assert not is_plain_name(name)
    with pytest.raises(UserError, match="not a plain name"):
        child_path(Path("runs"), name)


def test_a_run_is_beside_the_sweeps_or_in_a_published_sweep() -> None:
    sweep = Path("outputs/sweeps/demo")
    assert run_path(sweep, "r", "../../runs/r") == sweep / "../../runs/r"
    assert run_path(sweep, "r", "runs/r") == sweep / "runs" / "r"
    for run, place in (("r", "../../.."), ("r", "../../runs/other"), ("..", "../../runs/.."), ("r", "/r"), ("r", None)):
        with pytest.raises(UserError):
            run_path(sweep, run, place)


def test_yaml_holds_its_own_digest_and_no_aliases(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_yaml(path, {"training": {"max_steps": 20}})
    assert read_yaml(path, "training") == {"training": {"max_steps": 20}}
    path.write_text(path.read_text().replace("20", "40"))
    with pytest.raises(UserError, match="damaged"):
        read_yaml(path)
    for content in (
        "a: &x [1]\nb: *x\n",
        "a: " + "[" * 5000,
        "a: " + "9" * 5000,
        "- 1\n",
        "a: 2024-13-45\n",
        "a: !!x 1\n",
    ):
        path.write_text(content)
        with pytest.raises(UserError) as error:
            read_yaml(path)
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_control_characters_are_replaced() -> None:
    assert (
        replace_control_chars("a\x1b[2Jb\x07\x08\x9b\r\u202e\ud800é\n\t")
        == "a\ufffd[2Jb\ufffd\ufffd\ufffd\ufffd\ufffd?é\n\t"
    )


def test_temporary_files_of_a_running_process_are_kept(tmp_path: Path) -> None:
    (tmp_path / ".out.1.tmp").mkdir()
    (tmp_path / ".out.2.tmp").touch()
    (tmp_path / ".other.3.tmp").touch()
    (tmp_path / ".out.4.tmp").symlink_to(tmp_path / ".other.3.tmp")
    with replace_folder(tmp_path / "out") as living:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".other.3.tmp", living.name])
        remove_stale_temporaries(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [living.name]
        (living / "file").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_readers_find_a_folder_that_is_being_replaced_and_rename_nothing(tmp_path: Path) -> None:
    assert find_folder(tmp_path / "last") == tmp_path / "last"
    (tmp_path / "last.old").mkdir()
    assert find_folder(tmp_path / "last") == tmp_path / "last.old"
    (tmp_path / "last").mkdir()
    assert find_folder(tmp_path / "last") == tmp_path / "last" and (tmp_path / "last.old").exists()


def test_symbolic_links_are_not_followed_by_writes(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "wandb").mkdir()
    (folder / "wandb" / "latest-run").symlink_to(tmp_path)
    reject_symlinks(folder, "wandb")
    (folder / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match="link: is a symbolic link"):
        reject_symlinks(folder, "wandb")
    with pytest.raises(UserError, match="not a regular file"), file_lock(folder / "link"):
        pass
    write_bytes(folder / "link", b"new")
    assert (tmp_path / "victim").read_text() == "mine" and (folder / "link").read_bytes() == b"new"


def test_a_folder_in_place_of_a_lock_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UserError, match="not a regular file") as error, file_lock(tmp_path / ".lock", "busy"):
        pass
    assert not isinstance(error.value, LockBusy)


def test_lost_and_changed_lines_have_another_digest() -> None:
    lines = [json.dumps({"step": step}) + "\n" for step in range(3)]
    marks = {digest_lines(some) for some in (lines, lines[:2], lines[1:], [*lines[:2], '{"step": 3}\n'], [])}
    assert len(marks) == 5 and digest_lines(lines).rows == 3


def test_a_record_that_is_missing_or_damaged_is_not_found(tmp_path: Path) -> None:
    reported: list[str] = []
    path = tmp_path / "x.json"
    assert find_record(path, dict[str, int], "going on", reported.append) is None and not reported
    write_record(path, {"a": 1})
    assert find_record(path, dict[str, int]) == {"a": 1}
    path.write_text(path.read_text().replace("1", "2", 1))
    assert find_record(path, dict[str, int], "going on", reported.append) is None
    assert reported == [f"{path}: damaged: its content differs from its checksum; going on"]
