"""Write files so that a reader, or a crash at any instant, sees the old version or the new one and never a half.

Everything goes to a temporary sibling first, is flushed to the disk, and is renamed into place.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from src.config import UserError

ROOM = {errno.ENOSPC: "make room", errno.EDQUOT: "make room or have the quota raised", errno.EFBIG: "raise ulimit -f"}
RIGHTS = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, or give another output_root")
DEVICE = dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENODEV), "see to the disk")
LOCKS = dict.fromkeys((errno.ENOLCK, errno.ENOTSUP), "give an output_root on a disk that can lock files")
REMEDIES = ROOM | RIGHTS | DEVICE | LOCKS
"""What to do about an error of the system that no program can put right."""
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def storage_remedy(error: BaseException) -> str | None:
    """Return what the user can do where a disk has refused something; None for any other error."""
    return REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Have a file or folder on the disk, not only on its way there."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        temporary.write_bytes(content)
        sync(temporary)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, creating its folder."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON atomically. Raises ValueError for NaN, which is no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def finite(value: float | None) -> float | None:
    """Return a number that JSON can hold; None for one that it cannot, as for none."""
    return value if value is not None and math.isfinite(value) else None


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises UserError where it is missing or is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None


def sha256_of(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_yaml(path: Path, *sections: str) -> dict[str, Any]:
    """Read a YAML file of plain values. Raises UserError where it is missing, is no such file or lacks a section."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a YAML file of plain values ({' '.join(str(error).split())})") from None
    for section in sections:
        if not isinstance(values, dict) or not isinstance(values.get(section), dict):
            raise UserError(f"{path}: has no section {section}; the file is damaged or not of this program")
    return values


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well, and vanishes when it does not.

    A folder cannot be renamed over another, so an old one steps aside to `<name>.old` for an instant:
    `settle_folder` finds it there after a crash between the two renames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    settle_folder(path)
    temporary = _temporary(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        move_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def move_folder(new: Path, path: Path) -> None:
    """Have a folder take the place of `path` on the same disk, as `replace_folder` does."""
    for file in new.rglob("*"):
        if file.is_file():
            sync(file)
    sync(new)
    old = path.with_name(path.name + ".old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(new, path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def settle_folder(path: Path) -> None:
    """Finish what a crash in `replace_folder` left: bring `<name>.old` back if `path` is gone.

    Beside a whole folder it stays, until the next `replace_folder`: who only reads deletes nothing.
    """
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        os.rename(old, path)


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left in `folder`; only who holds the lock on it may."""
    for path in folder.glob("*"):
        if path.name.endswith(".old"):
            settle_folder(path.with_suffix(""))
        if path.exists() and (path.name.endswith(".old") or TEMPORARY.fullmatch(path.name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def file_lock(path: Path, busy: str | None = None) -> Iterator[Callable[[], bool]]:
    """Hold an exclusive lock on `path`; the system releases it when the process ends, however it ends.

    Waits for the lock, or, where `busy` is given, raises UserError(busy) at once if another process holds it. Yields a
    function that tells whether `path` is still what is locked: it is not when someone has removed its folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise UserError(busy or "locked") from None

        def held() -> bool:
            try:
                return os.path.samestat(os.fstat(handle.fileno()), path.stat())
            except OSError:
                return False

        yield held
