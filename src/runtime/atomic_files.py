"""Atomic writes: a reader, or a crash at any time, finds the old version or the new one, never a part.

Content is written to a temporary sibling, flushed to disk and renamed into place.
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
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import yaml

from src.config.schema import UserError

REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room or have the quota raised",
    errno.EFBIG: "raise ulimit -f",
    errno.ENAMETOOLONG: "use a shorter name",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "make it writable, or give another output_root"),
    **dict.fromkeys((errno.EIO, errno.ESTALE, errno.ENODEV), "check the disk"),
    **dict.fromkeys((errno.ENOLCK, errno.ENOTSUP), "set output_root to a disk that supports file locks"),
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP), "move it away"),
}
"""Remedies for errors of the operating system that the user has to fix, by errno."""
MAX_FILE_BYTES = 256 << 20
"""Upper limit for files that are read whole; regular ones are far smaller."""
HOST = re.sub(r"\W", "-", socket.gethostname().partition(".")[0])[:16] or "host"
"""Part of the names of temporary files; at most 16 letters, as a name has at most 255 bytes."""
TEMPORARY = re.compile(r"\..+\.\d+\.tmp")


def storage_remedy(error: BaseException) -> str | None:
    """Return what the user can do about an error of the disk; None for any other error."""
    return REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None


def temporary_path(path: Path) -> Path:
    """Return the temporary sibling of a file or folder that this process writes; other hosts have equal process ids."""
    return path.with_name(f".{path.name}.{HOST}.{os.getpid()}.tmp")


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb", opener=_open_no_follow) as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # so `remove_stale_temporaries` keeps it
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
            os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _open_no_follow(name: str, flags: int) -> int:
    """Open a file for writing without following a symbolic link."""
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, creating its folder."""
    write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Append to a text file, creating it."""
    with open(path, "a", encoding="utf-8", opener=_open_no_follow) as handle:
        handle.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON atomically. Raises: ValueError for NaN, which JSON lacks."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def finite_or_none(value: float | None) -> float | None:
    """Return the number, or None if it is None, infinite or NaN, which JSON lacks."""
    return value if value is not None and math.isfinite(value) else None


def read_bytes(path: Path, *, allow_links: bool = False) -> bytes:
    """Read a whole file of moderate size. Raises: UserError if it is missing, too large or not a regular file."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _flags(allow_links))) as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UserError(f"{path}: not a regular file; move it away")
            if status.st_size > MAX_FILE_BYTES:
                raise UserError(f"{path}: has {status.st_size:,} bytes, more than {MAX_FILE_BYTES:,}; move it away")
            return handle.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        is_link = not allow_links and path.is_symlink()
        reason = "is a symbolic link; replace it by the file" if is_link else f"cannot be read ({error.strerror})"
        raise UserError(f"{path}: {reason}") from None


def _flags(allow_links: bool) -> int:
    """Return open flags: opening a pipe must not block, and a link fails unless allowed."""
    return os.O_NONBLOCK | (0 if allow_links else os.O_NOFOLLOW)


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises: UserError if it is missing, damaged or not JSON."""
    return decode_json(path, read_bytes(path))


def decode_json(path: Path, content: bytes, remedy: str = "") -> Any:
    """Decode JSON; NaN, infinity and integers beyond 64 bits are errors. Raises: UserError with the remedy."""
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
    """Return the SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class _NoAliasLoader(yaml.SafeLoader):
    """Loads plain values. Aliases are errors: a few of them can expand to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def load_yaml(path: Path, *, allow_links: bool = False) -> Any:
    """Read a YAML file of plain values. Raises: UserError if it is missing or not YAML."""
    return _decode_yaml(path, read_bytes(path, allow_links=allow_links))


def _decode_yaml(path: Path, content: bytes) -> Any:
    try:
        return yaml.load(content.decode("utf-8"), _NoAliasLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise UserError(f"{path}: not a YAML file of plain values ({reason})") from None


def write_yaml(path: Path, values: dict[str, Any]) -> None:
    """Write plain values as YAML atomically, with the SHA-256 of the text in a comment on top."""
    text = yaml.safe_dump(values, sort_keys=False)
    write_text(path, f"# sha256 {hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def read_yaml(path: Path, *sections: str) -> dict[str, Any]:
    """Read a YAML mapping. Raises: UserError if it is missing, damaged, not YAML or lacks a section."""
    content = read_bytes(path)
    found = re.match(rb"# sha256 ([0-9a-f]{64})\n", content)
    if found and hashlib.sha256(content[found.end() :]).hexdigest().encode() != found[1]:
        raise UserError(f"{path}: damaged: its content differs from its checksum; start over with rerun=true")
    values = _decode_yaml(path, content)
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; the file is damaged or from another program")
    for section in sections:
        if not isinstance(values.get(section), dict):
            raise UserError(f"{path}: has no section {section}; the file is damaged or from another program")
    return values


def apply_umask(path: Path) -> None:
    """Set the default mode of new files; safetensors makes its files readable by their owner only."""
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def create_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that is renamed to `path` if the block succeeds, and removed otherwise.

    A folder with the same files at `path` stays: an earlier run of the same command wrote it.
    Raises: FileExistsError if anything else than an empty folder is at `path`.
    """
    with _temporary_folder(path) as temporary:
        yield temporary
        if path.is_dir() and any(path.iterdir()):
            if not _have_same_files(temporary, path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            return
        sync_folder(temporary)
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
    """Yield an empty folder beside `path` that is removed at the end, as are those that killed processes left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_temporaries(path.parent, path.name)
    temporary = temporary_path(path)
    temporary.mkdir()
    try:
        with _lock(temporary):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` if the block succeeds, and is removed otherwise.

    A folder cannot be renamed over another, so the old one is first renamed to `<name>.old`: `recover_folder` finds
    it there after a crash between the two renames. Temporary folders of killed processes are removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    with _temporary_folder(path) as temporary:
        yield temporary
        move_folder(temporary, path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the lock of a temporary file or folder: its owner is alive. Raises: OSError if another process holds it."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Flush a folder and its files to disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            sync(file)
    sync(folder)


def move_folder(new: Path, path: Path) -> None:
    """Replace `path` by another folder on the same disk, as `replace_folder` does."""
    sync_folder(new)
    old = path.with_name(path.name + ".old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    os.rename(new, path)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Recover from a crash in `replace_folder`: rename `<name>.old` to `path` if `path` is missing.

    Only the process that writes the folder may call it; readers use `find_folder`.
    """
    old = path.with_name(path.name + ".old")
    if old.exists() and not path.exists():
        os.rename(old, path)


def find_folder(path: Path) -> Path:
    """Return the current place of a folder: `path`, or `<name>.old` while a writer replaces it."""
    old = path.with_name(path.name + ".old")
    return old if old.exists() and not path.exists() else path


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in `folder`; only the holder of its lock may call it."""
    for path in folder.glob("*.old"):
        recover_folder(path.with_suffix(""))
        if path.exists():
            remove_path(path)
    remove_stale_temporaries(folder)


def remove_stale_temporaries(folder: Path, name: str | None = None) -> None:
    """Remove temporary files and folders, or those of one name, that no living process has locked."""
    for path in folder.glob(f".{glob.escape(name) if name else '*'}.*.tmp"):
        if not TEMPORARY.fullmatch(path.name):
            continue
        with suppress(OSError), nullcontext() if path.is_symlink() else _lock(path):
            remove_path(path)


def remove_path(path: Path) -> None:
    """Remove a file, a link or a folder with its content, if it exists."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def reject_symlinks(folder: Path, *excluded: str) -> None:
    """Check a folder before writing to it: a symbolic link could redirect the writer.

    excluded: names of folders in it that other programs write. Raises: UserError naming the link.
    """
    if folder.is_symlink():
        raise UserError(f"{folder}: is a symbolic link; replace it by its target, or remove it")
    for place, folders, files in os.walk(folder):
        if link := next((name for name in sorted([*folders, *files]) if os.path.islink(f"{place}/{name}")), None):
            raise UserError(f"{place}/{link}: is a symbolic link; replace it by its target, or remove it")
        folders[:] = [name for name in folders if name not in excluded]


class LockBusy(UserError):
    """Another process holds a lock."""


@contextmanager
def file_lock(path: Path, busy: str | None = None) -> Iterator[Callable[[], bool]]:
    """Hold an exclusive lock on `path`; the system releases it when the process ends, however it ends.

    Waits for the lock, or, where `busy` is given, raises LockBusy(busy) at once if another process holds it. Yields a
    function that returns whether `path` is still what is locked: it is not when someone has removed its folder.
    Raises: UserError if `path` is not a regular file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UserError(f"{path}: must be a lock file but is not a regular file; move it away")
    with open(path, "a", opener=_open_no_follow) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise LockBusy(busy or "locked") from None
        except OSError as error:  # some network file systems have no locks
            raise UserError(f"{path}: cannot be locked ({error.strerror}); {REMEDIES[errno.ENOLCK]}") from None

        def is_held() -> bool:
            try:
                return os.path.samestat(os.fstat(handle.fileno()), path.stat())
            except OSError:
                return False

        yield is_held
