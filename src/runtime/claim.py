"""A run directory while a process works in it: claimed, watched, emptied; and what its disk refuses, told in a line."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from src.config import UserError
from src.runtime.files import file_lock, storage_remedy

LOCK = ".lock"


def claim(folder: Path) -> AbstractContextManager[Callable[[], bool]]:
    """Hold the lock on a run directory; yields a function that tells whether the directory is still there.

    Raises:
        UserError: another process holds it. One that was killed does not.
    """
    busy = f"{folder}: another process is training this run; wait for it, or change the seed or a setting"
    return file_lock(folder / LOCK, busy)


def is_claimed(folder: Path) -> bool:
    """Tell whether a process is at work in a run directory at this moment."""
    if not (folder / LOCK).exists():
        return False
    try:
        with claim(folder):
            return False
    except UserError:
        return True


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
    """Empty a run directory, so that a kill leaves a run to go on with, and none that looks done and has no weights.

    Raises:
        UserError: another process is at work in it, or the disk refuses.
    """
    with storage_told(folder), claim(folder):
        (folder / "summary.json").unlink(missing_ok=True)
        if (folder / "checkpoints").exists():  # a checkpoint that lacks a file would be taken for a damaged one
            os.rename(folder / "checkpoints", folder / f".checkpoints.{os.getpid()}.tmp")
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
