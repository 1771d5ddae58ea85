"""A run directory while a process works in it: claimed, watched, emptied; and what its disk refuses, told in a line."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.config.schema import UserError
from src.runtime.atomic_files import LockBusy, file_lock, reject_symlinks, remove_stale_temporaries, storage_remedy

LOCK = ".lock"


@contextmanager
def acquire_run_lock(folder: Path) -> Iterator[Callable[[], bool]]:
    """Hold the lock on a run directory; yields a function that tells whether the directory is still there.

    Raises:
        UserError: another process holds it (one that was killed does not), or a symbolic link in it leads elsewhere.
    """
    busy = f"{folder}: another process is training this run; wait for it, or change the seed or a setting"
    with file_lock(folder / LOCK, busy) as held:
        reject_symlinks(folder, "wandb")
        yield held


def is_run_locked(folder: Path) -> bool:
    """Return whether a process is at work in a run directory at this moment."""
    if not (folder / LOCK).exists():
        return False
    try:
        with acquire_run_lock(folder):
            return False
    except LockBusy:
        return True
    except UserError:  # whoever trains there will say it
        return False


def run_removed_error(folder: Path) -> UserError:
    """Make the error of a run whose directory has gone."""
    return UserError(f"{folder}: removed while the run was training in it; the same command starts it anew")


@contextmanager
def report_disk_errors(folder: Path, rerun: bool = False, held: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Tell in one line what the disk of a run refuses; `held` is what `claim` has yielded. Raises UserError."""
    try:
        yield
    except OSError as error:
        if not held():
            raise run_removed_error(folder) from error
        remedy = storage_remedy(error)
        if remedy is None:
            raise
        again = "the same command without rerun=true" if rerun else "the same command"
        raise UserError(f"{folder}: {error.strerror}; {remedy}, and {again} goes on") from error


def start_over(folder: Path) -> None:
    """Remove a run directory in one atomic move: a kill leaves either the whole old run or none.

    Raises:
        UserError: another process is at work in it, or the disk refuses.
    """
    if not folder.exists():
        return
    with report_disk_errors(folder), acquire_run_lock(folder):
        remove_stale_temporaries(folder.parent, folder.name)
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        os.rename(folder, aside)
        shutil.rmtree(aside)
