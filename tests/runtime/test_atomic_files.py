"""Atomic writes: a reader, or a crash at any time, finds the old or the new version."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import ROOT, UserError
from src.runtime import atomic_files
from src.runtime.atomic_files import (
    file_lock,
    finite_or_none,
    read_json,
    recover_folder,
    remove_leftovers,
    replace_folder,
    storage_remedy,
    write_json,
    write_text,
)


class Crash(BaseException):
    """Stands for a power failure."""


def crash(*_: Any, **__: Any) -> None:
    raise Crash


def test_text_is_written_into_a_new_folder(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "text.txt"
    for text in ("first\n", "später\n", ""):
        write_text(file, text)
        assert file.read_text(encoding="utf-8") == text
        assert [entry.name for entry in file.parent.iterdir()] == ["text.txt"]


def test_finite_or_none_maps_infinity_and_nan_to_none() -> None:
    assert finite_or_none(2.5) == 2.5 and finite_or_none(3) == 3
    assert finite_or_none(math.nan) is None and finite_or_none(-math.inf) is None and finite_or_none(None) is None


@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_an_interrupted_write_leaves_the_old_text(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "text.txt"
    write_text(file, "old")
    with monkeypatch.context() as patch:
        patch.setattr(where, crash)
        with pytest.raises(Crash):
            write_text(file, "new")
    assert file.read_text() == "old"
    write_text(file, "new")
    assert file.read_text() == "new"


def test_a_failed_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full") as error:
        write_text(tmp_path / "text.txt", "new")
    assert not list(tmp_path.iterdir())
    assert storage_remedy(error.value) == "make room"
    assert storage_remedy(FileNotFoundError(errno.ENOENT, "gone")) is None and storage_remedy(ValueError()) is None


def test_only_files_of_killed_writers_are_removed(tmp_path: Path) -> None:
    for folder in ("whole", "whole.old", "aside.old", ".half.12.tmp", ".hidden"):
        fill(tmp_path / folder, folder)
    for file in (".text.txt.12.tmp", ".notes.tmp", "text.txt.12.tmp"):
        (tmp_path / file).touch()
    remove_leftovers(tmp_path)
    kept = [".hidden", ".notes.tmp", "aside", "text.txt.12.tmp", "whole"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == kept
    assert (content(tmp_path / "aside"), content(tmp_path / "whole")) == ("aside.old", "whole")
    remove_leftovers(tmp_path / "nowhere")


def test_json_round_trip(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "ä": "\n"}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value
    assert json.loads((tmp_path / "x.json").read_text()) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, {"a": [-math.inf]}])
def test_values_outside_json_are_not_written(value: Any, tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_invalid_json_raises_an_error_with_the_path(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_json(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        read_json(file)


def fill(folder: Path, text: str) -> None:
    with replace_folder(folder) as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "file").write_text(text)


def content(folder: Path) -> str:
    return (folder / "inner" / "file").read_text()


def test_replace_folder_replaces_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "folder"
    for text in ("first", "second"):
        fill(folder, text)
        assert content(folder) == text
        assert [entry.name for entry in folder.parent.iterdir()] == ["folder"]


def half_write(folder: Path) -> None:
    (folder / "half").touch()
    raise ZeroDivisionError


@pytest.mark.parametrize("there", [True, False])
def test_an_exception_keeps_the_old_folder_and_leaves_no_temporary(there: bool, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if there:
        fill(folder, "old")
    with pytest.raises(ZeroDivisionError), replace_folder(folder) as temporary:
        half_write(temporary)
    assert [entry.name for entry in tmp_path.iterdir()] == (["folder"] if there else [])
    assert not there or content(folder) == "old"


def test_a_crash_at_any_rename_leaves_a_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename
    for number in (1, 2):
        folder = tmp_path / str(number)
        fill(folder, "old")
        count = iter(range(1, 10))

        def rename(source: Any, target: Any, number: int = number, count: Any = count) -> None:
            if next(count) == number:
                raise Crash
            real(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a crashed process removes nothing
            with pytest.raises(Crash):
                fill(folder, "new")
        recover_folder(folder)
        assert content(folder) == "old"
        fill(folder, "newer")
        assert content(folder) == "newer"
        assert not folder.with_name(f"{number}.old").exists()


def test_a_crash_before_the_old_folder_is_removed_leaves_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    fill(folder, "old")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        fill(folder, "new")
    assert folder.with_name("folder.old").exists()
    recover_folder(folder)
    assert content(folder) == "new"
    fill(folder, "newer")
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_recover_folder_changes_nothing_without_a_crash(tmp_path: Path) -> None:
    recover_folder(tmp_path / "folder")
    assert not list(tmp_path.iterdir())


HOLD = "import sys; from pathlib import Path; from src.runtime.atomic_files import file_lock\n" + (
    "with file_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


def test_a_lock_is_exclusive_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / "a" / ".lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=r"^it is busy$"), file_lock(lock, "it is busy"):
            pytest.fail("held by another process")
        other.kill()
    with file_lock(lock, "it is busy"):
        pass
    with file_lock(lock):
        pass


def test_the_holder_of_a_lock_detects_that_its_folder_was_removed(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    with file_lock(lock, "busy") as held:
        assert held()
        shutil.rmtree(lock.parent)
        assert not held()
        with file_lock(lock, "busy") as held_by_another:  # in a new folder of the same name
            assert held_by_another() and not held()


def test_a_lock_is_released_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / ".lock", "busy"):
        raise ZeroDivisionError
    with file_lock(tmp_path / ".lock", "busy"):
        pass


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(atomic_files.fcntl, "flock", flock)
    expected = r"\.lock: cannot be locked \(.*\); set output_root to a disk that supports"
    with pytest.raises(UserError, match=expected), atomic_files.file_lock(tmp_path / ".lock", "busy"):
        pass


def test_temporary_names_differ_between_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = atomic_files.temporary_path(tmp_path / "out")
    monkeypatch.setattr(atomic_files, "HOST", "another")
    other = atomic_files.temporary_path(tmp_path / "out")
    assert other.name == f".out.another.{os.getpid()}.tmp" != own.name
    own.mkdir()
    other.touch()
    atomic_files.remove_stale_temporaries(tmp_path, "out")
    assert list(tmp_path.iterdir()) == []
