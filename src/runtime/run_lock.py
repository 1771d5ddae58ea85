"""A run directory while a process works in it: claimed, watched, emptied; and what its disk refuses, told in a line."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from src.config.schema import UserError
from src.runtime.atomic_files import Busy, file_lock, refuse_links, remove_abandoned, storage_remedy

LOCK = ".lock"


@contextmanager
def claim(folder: Path) -> Iterator[Callable[[], bool]]:
    """Hold the lock on a run directory; yields a function that tells whether the directory is still there.

    Raises:
        UserError: another process holds it (one that was killed does not), or a symbolic link in it leads elsewhere.
    """
    busy = f"{folder}: another process is training this run; wait for it, or change the seed or a setting"
    with file_lock(folder / LOCK, busy) as held:
        refuse_links(folder, "wandb")
        yield held


def is_claimed(folder: Path) -> bool:
    """Return whether a process is at work in a run directory at this moment."""
    if not (folder / LOCK).exists():
        return False
    try:
        with claim(folder):
            return False
    except Busy:
        return True
    except UserError:  # whoever trains there will say it
        return False


def removed(folder: Path) -> UserError:
    """Make the error of a run whose directory has gone."""
    return UserError(f"{folder}: removed while the run was training in it; the same command starts it anew")


@contextmanager
def storage_told(folder: Path, rerun: bool = False, held: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """Tell in one line what the disk of a run refuses; `held` is what `claim` has yielded. Raises UserError."""
    try:
        yield
    except OSError as error:
        if not held():
            raise removed(folder) from error
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
    with storage_told(folder), claim(folder):
        remove_abandoned(folder.parent, folder.name)
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        os.rename(folder, aside)
        shutil.rmtree(aside)
