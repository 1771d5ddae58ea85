"""The lock on a run directory, and errors of its disk in one line."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.config.schema import UserError
from src.runtime.atomic_files import (
    LockBusy,
    file_lock,
    reject_symlinks,
    remove_stale_temporaries,
    storage_remedy,
    temporary_path,
)

LOCK = ".lock"


@contextmanager
def acquire_run_lock(folder: Path) -> Iterator[Callable[[], bool]]:
    """Hold the lock on a run directory; yields a function that returns whether the directory still exists.

    Raises:
        UserError: another living process holds it, or the directory contains a symbolic link.
    """
    busy = f"{folder}: another process is training this run; wait for it, or change the seed or a setting"
    with file_lock(folder / LOCK, busy) as is_held:
        reject_symlinks(folder, "wandb")
        yield is_held


def is_run_locked(folder: Path) -> bool:
    """Return whether a process is working in a run directory."""
    if not (folder / LOCK).exists():
        return False
    try:
        with acquire_run_lock(folder):
            return False
    except LockBusy:
        return True
    except UserError:  # the process that trains there reports it
        return False


def run_removed_error(folder: Path) -> UserError:
    """Return the error for a run directory that was removed during training."""
    return UserError(f"{folder}: removed during training; the same command starts the run again")


@contextmanager
def report_disk_errors(folder: Path, rerun: bool = False, is_held: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Turn errors of a run's disk into UserError; `is_held` is what `acquire_run_lock` yields."""
    try:
        yield
    except OSError as error:
        if not is_held():
            raise run_removed_error(folder) from error
        remedy = storage_remedy(error)
        if remedy is None:
            raise
        command = "the same command without rerun=true" if rerun else "the same command"
        raise UserError(f"{folder}: {error.strerror}; {remedy}, and {command} goes on") from error


def remove_run(folder: Path) -> None:
    """Remove a run directory atomically: a kill leaves the whole run or none of it.

    Raises:
        UserError: another process is working in it, or the disk reports an error.
    """
    if not folder.exists():
        return
    with report_disk_errors(folder), acquire_run_lock(folder):
        remove_stale_temporaries(folder.parent, folder.name)
        temporary = temporary_path(folder)
        os.rename(folder, temporary)
        shutil.rmtree(temporary)
