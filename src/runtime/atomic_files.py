"""Write files so that a reader, or a crash at any instant, sees the old version or the new one and never a half.

Everything goes to a temporary sibling first, is flushed to the disk, and is renamed into place.
"""

import errno
import fcntl
import filecmp
import glob
import hashlib
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from src.config.schema import UserError

SPACE_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room or have the quota raised",
    errno.EFBIG: "raise ulimit -f",
}
PERMISSION_REMEDIES = dict.fromkeys(
    (errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, or give another output_root"
)
DISK_REMEDIES = dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENODEV), "see to the disk")
LOCK_REMEDIES = dict.fromkeys((errno.ENOLCK, errno.ENOTSUP), "give an output_root on a disk that can lock files")
PATH_REMEDIES = dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP), "move it away")
REMEDIES = (
    SPACE_REMEDIES
    | PERMISSION_REMEDIES
    | DISK_REMEDIES
    | LOCK_REMEDIES
    | PATH_REMEDIES
    | {errno.ENAMETOOLONG: "give a shorter name"}
)
"""What to do about an error of the system that no program can put right."""
MAX_FILE_BYTES = 256 << 20
"""Bytes; no file that is read whole comes near."""
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
        with open(temporary, "wb", opener=_open_no_follow) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # see `remove_stale_temporaries`
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
            os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _open_no_follow(name: str, flags: int) -> int:
    """Open a file for writing, and not what a symbolic link of its name leads to."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, creating its folder."""
    write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Append to a text file, creating it."""
    with open(path, "a", encoding="utf-8", opener=_open_no_follow) as handle:
        handle.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON atomically. Raises ValueError for NaN, which is no JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def finite_or_none(value: float | None) -> float | None:
    """Return a number that JSON can hold; None for one that it cannot, as for none."""
    return value if value is not None and math.isfinite(value) else None


def read_bytes(path: Path, *, allow_links: bool = False) -> bytes:
    """Read a whole file of moderate size. Raises: UserError where there is none, or something else in its place."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _flags(allow_links))) as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path}: is no regular file; move it away")
            if status.st_size > MAX_FILE_BYTES:
                raise UserError(f"{path}: has {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}; move it away")
            return handle.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        is_link = not allow_links and path.is_symlink()
        reason = "is a symbolic link; put the file itself there" if is_link else f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {reason}") from None


def _flags(allow_links: bool) -> int:
    """Return flags with which opening a pipe does not wait, and a link fails unless it is allowed."""
    return os.O_NONBLOCK | (0 if allow_links else os.O_NOFOLLOW)


def read_json(path: Path, *, allow_links: bool = False) -> Any:
    """Read a JSON file. Raises: UserError where it is missing, damaged or no JSON."""
    return decode_json(path, read_bytes(path, allow_links=allow_links))


def decode_json(path: Path, content: bytes, remedy: str = "") -> Any:
    """Decode JSON without NaN, infinity and integers beyond 64 bits. Raises: UserError with the remedy."""
    try:
        return json.loads(content.decode("utf-8"), parse_int=_int64, parse_float=_finite_float, parse_constant=_int64)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path}: not a JSON file ({reason}){remedy and f'; {remedy}'}") from None


def _int64(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**64:
        raise ValueError(f"{text[:20]}...: a number of {len(text)} digits")
    return int(text)


def _finite_float(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"{text[:20]}: not a finite number")
    return float(text)


def file_sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class _NoAliasLoader(yaml.SafeLoader):
    """Loads plain values; aliases are refused, since a few of them stand for gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def load_yaml(path: Path, *, allow_links: bool = False) -> Any:
    """Read whatever plain value a YAML file holds. Raises: UserError where it is missing or no such file."""
    return _decode_yaml(path, read_bytes(path, allow_links=allow_links))


def _decode_yaml(path: Path, content: bytes) -> Any:
    try:
        return yaml.load(content.decode("utf-8"), _NoAliasLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{path}: not a YAML file of plain values ({reason})") from None


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as YAML atomically, with the SHA-256 of the text in a comment before it."""
    text = yaml.safe_dump(values, sort_keys=False)
    write_text(path, f"# sha256 {hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def read_yaml(path: Path, *sections: str) -> dict[str, Any]:
    """Read a YAML file of plain values. Raises: UserError where it is missing, is no such file or lacks a section."""
    content = read_bytes(path)
    found = re.match(rb"# sha256 ([0-9a-f]{64})\n", content)
    if found and hashlib.sha256(content[found.end() :]).hexdigest().encode() != found[1]:
        raise UserError(f"{path}: damaged: its content is not what was written; start over with rerun=true")
    values = _decode_yaml(path, content)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; the file is damaged or not of this program")
    for section in sections:
        if not isinstance(values.get(section), dict):
            raise UserError(f"{path}: has no section {section}; the file is damaged or not of this program")
    return values


def apply_umask(path: Path) -> None:
    """Give a file the mode of a new one; safetensors makes its own readable by their owner alone."""
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends well, and vanishes when it does not.

    Nothing that is at `path` changes: a folder with the same files is the work of an earlier run of the same command.
    Raises: FileExistsError where anything else is there, but an empty folder.
    """
    with _temporary_folder(path) as temporary:
        yield temporary
        if path.is_dir() and any(path.iterdir()):
            if not _have_same_files(temporary, path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            return
        _sync_folder(temporary)
        os.rename(temporary, path)
        sync(path.parent)


def _have_same_files(one: Path, other: Path) -> bool:
    names = [
        sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())
        for folder in (one, other)
    ]
    return names[0] == names[1] and filecmp.cmpfiles(one, other, names[0], shallow=False)[0] == names[0]


@contextmanager
def _temporary_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that is removed at the end, with those that killed processes left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(path.parent, path.name)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        with _folder_lock(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` when the block ends well, and vanishes when it does not.

    A folder cannot be renamed over another, so an old one steps aside to `<name>.old` for an instant:
    `recover_folder` finds it there after a crash between the two renames. What killed processes left is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    with _temporary_folder(path) as temporary:
        yield temporary
        move_folder(temporary, path)


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold a lock on a temporary folder, by which others know that its process lives."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            sync(file)
    sync(folder)


def move_folder(new: Path, path: Path) -> None:
    """Have a folder take the place of `path` on the same disk, as `replace_folder` does."""
    _sync_folder(new)
    old = path.with_name(path.name + ".old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(new, path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Finish what a crash in `replace_folder` left: bring `<name>.old` back if `path` is gone.

    Only the process that writes the folder may; readers use `find_folder`. Beside a whole folder `<name>.old` stays,
    until the next `replace_folder`.
    """
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        os.rename(old, path)


def find_folder(path: Path) -> Path:
    """Return where a folder is at this moment: at `path`, or at `<name>.old` while a writer replaces it."""
    old = path.with_name(path.name + ".old")
    return old if old.exists() and not path.exists() else path


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed left in `folder`; only the holder of the lock on it may."""
    for path in folder.glob("*.old"):
        recover_folder(path.with_suffix(""))
        if path.exists():
            remove_path(path)
    remove_stale_temporaries(folder)


def remove_stale_temporaries(folder: Path, name: str | None = None) -> None:
    """Remove temporary files and folders, or those of one name, whose process is gone: it held a lock on them."""
    for path in folder.glob(f".{glob.escape(name) if name else '*'}.*.tmp"):
        if not TEMPORARY.fullmatch(path.name):
            continue
        with suppress(OSError):
            if path.is_symlink():
                path.unlink()
                continue
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove_path(path)
            finally:
                os.close(handle)


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def reject_symlinks(folder: Path, *besides: str) -> None:
    """Check a folder before anything is written in it: a symbolic link could lead the writer elsewhere.

    besides: names of folders in it that other programs write. Raises: UserError naming the link.
    """
    if folder.is_symlink():
        raise UserError(f"{folder}: is a symbolic link; put what it leads to in its place, or remove it")
    for place, folders, files in os.walk(folder):
        if link := next((name for name in sorted([*folders, *files]) if os.path.islink(f"{place}/{name}")), None):
            raise UserError(f"{place}/{link}: is a symbolic link; put what it leads to in its place, or remove it")
        folders[:] = [name for name in folders if name not in besides]


class LockBusy(UserError):
    """Another process holds a lock."""


@contextmanager
def file_lock(path: Path, busy: str | None = None) -> Iterator[Callable[[], bool]]:
    """Hold an exclusive lock on `path`; the system releases it when the process ends, however it ends.

    Waits for the lock, or, where `busy` is given, raises Busy(busy) at once if another process holds it. Yields a
    function that returns whether `path` is still what is locked: it is not when someone has removed its folder.
    Raises: UserError where something else than a file is in its place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path}: is in the place of a lock and no plain file; move it away")
    with open(path, "a", opener=_open_no_follow) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise LockBusy(busy or "locked") from None

        def held() -> bool:
            try:
                return os.path.samestat(os.fstat(handle.fileno()), path.stat())
            except OSError:
                return False

        yield held
