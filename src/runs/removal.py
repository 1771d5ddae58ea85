"""Remove runs, and checkpoint files of finished runs that no command reads.

What reads a checkpoint of a finished run: `generate` and `export` the weights of `best` of the last stage, `evaluate`
those of `last` of every stage, `init_from` those of `last` of the last stage or of a checkpoint that it names. Only a
run that is resumed within a stage reads `last/state.pt` and shards beside it, the optimizer's state, and a finished run
is never resumed.
A trial of a search for learning rates counts by its summary.json alone.

Everything is checked before anything is removed.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from src.config.formatting import count_of, show_bytes
from src.config.schema import UserError
from src.runs.listing import load_rows
from src.runs.lookup import (
    SWEEPS,
    TUNING,
    find_run,
    folder_bytes,
    is_in_use,
    list_runs,
    root_of,
    runs_started_from,
    sweeps_of,
)
from src.runs.summary import Summary, read_summary
from src.runtime.atomic_files import reject_symlinks, remove_path, remove_stale_temporaries, temporary_path
from src.runtime.records import is_plain_name
from src.runtime.run_lock import acquire_run_lock, remove_run

Log = Callable[[str], object]
STATE, SHARDS = "state.pt", "shard-*.safetensors"


def remove_runs(names: Sequence[str], root: Path, *, is_forced: bool, is_confirmed: bool, log: Log) -> None:
    """Say which runs would be removed, and remove them if that is confirmed.

    Raises: UserError, before anything is removed, if a run does not exist, contains a symbolic link, is in use, or,
        unless is_forced, if a sweep or another run refers to it.
    """
    folders = {folder.resolve(): folder for folder in (find_run("remove", name, root) for name in names)}
    for folder in folders.values():
        _check_removable(folder, root)
    if not is_forced:
        _check_unreferenced(list(folders.values()), root)
    sizes = {folder: folder_bytes(folder) for folder in folders.values()}
    for folder, size in sizes.items():
        log(f"{folder}  {show_bytes(size)}")
    what = f"{count_of(len(sizes), 'run')}, {show_bytes(sum(sizes.values()))}"
    if not is_confirmed:
        log(f"Would remove {what}; confirm=true removes {'them' if len(sizes) > 1 else 'it'}")
        return
    for folder in sizes:
        remove_run(folder)
    log(f"Removed {what}")


def _check_removable(folder: Path, root: Path) -> None:
    """Raise UserError if a run contains a symbolic link or is in use, or a folder elsewhere is not surely a run."""
    reject_symlinks(folder, "wandb")
    if is_in_use(folder):
        raise UserError(f"remove={folder.name}: another process works in {folder}; wait for it, or stop it")
    if folder.parent.resolve() != (root / "runs").resolve() and read_summary(folder) is None:
        raise UserError(f"remove={folder}: has no summary.json, so it may not be a run; remove the folder by hand")


def _check_unreferenced(folders: Sequence[Path], root: Path) -> None:
    """Raise UserError if a sweep, or a run that is not removed too, refers to one of the runs."""
    removed, reasons = {folder.resolve() for folder in folders}, list[str]()
    for place in dict.fromkeys([root, *map(root_of, folders)]):
        sweeps, runs = sweeps_of(place, SWEEPS, TUNING), list_runs(place)
        for folder in folders:
            reasons += [
                f"{sweep} lists {folder.name}" for sweep, listed in sweeps.items() if folder.resolve() in listed
            ]
            started = [other for other in runs_started_from(folder, runs) if other.resolve() not in removed]
            reasons += [f"{other.name} started from {folder.name}" for other in started]
    if reasons := list(dict.fromkeys(reasons)):
        shown = "; ".join([*reasons[:5], *([f"{len(reasons) - 5} more"] if len(reasons) > 5 else [])])
        raise UserError(f"remove: {shown}; force=true removes the runs nevertheless")


class Pruning(NamedTuple):
    """What is removed of one run."""

    folder: Path
    paths: list[Path]
    what: str
    size: int


def prune_runs(root: Path, conditions: Sequence[str], *, is_confirmed: bool, log: Log) -> None:
    """Say which checkpoint files of finished runs are not needed, and remove them if that is confirmed.

    Runs that another process works in, and runs with a damaged summary, are left alone.

    Raises: UserError, before anything is removed, for an invalid condition or a symbolic link in a run.
    """
    selected = [row["folder"] for row in load_rows(root, conditions)]
    runs, trials = list_runs(root), set[Path]().union(*sweeps_of(root, TUNING, ignore_damage=True).values())
    prunings = list[Pruning]()
    for folder in selected:
        try:
            summary = read_summary(folder)
        except UserError as error:
            log(f"Left alone: {error}")
            continue
        if summary is None or summary["status"] != "done":
            continue
        reject_symlinks(folder, "wandb")
        if is_in_use(folder):
            log(f"Left alone: another process works in {folder}")
            continue
        is_needed = bool(runs_started_from(folder, runs))
        if found := _plan_pruning(folder, summary, is_trial=folder.resolve() in trials and not is_needed):
            prunings.append(found)
    if not prunings:
        log("Nothing to prune: no finished run has checkpoint files that no command reads")
        return
    for pruning in prunings:
        log(f"{pruning.folder.name}  {show_bytes(pruning.size)}  {pruning.what}")
    what = f"{show_bytes(sum(pruning.size for pruning in prunings))} of {count_of(len(prunings), 'run')}"
    if not is_confirmed:
        log(f"Would free {what}; confirm=true removes these files")
        return
    for pruning in prunings:
        _prune(pruning)
    log(f"Freed {what}")


def _plan_pruning(folder: Path, summary: Summary, *, is_trial: bool) -> Pruning | None:
    """Return what a finished run does not need; None if there is nothing.

    is_trial: whether a search lists it and no run started from it.
    """
    checkpoints = folder / "checkpoints"
    if is_trial and summary["contract"].get("learning_rate_search") == "trial":
        if not checkpoints.is_dir():
            return None
        return Pruning(folder, [checkpoints], "all checkpoints of this trial", folder_bytes(checkpoints))
    stages = [name for name in summary["stages"] if is_plain_name(name) and _is_prunable(checkpoints / name / "last")]
    folders = [checkpoints / name / "last" for name in stages]
    paths = [path for folder in folders for path in (folder / STATE, *sorted(folder.glob(SHARDS)))]
    what = f"optimizer state of stage{'s' * (len(stages) > 1)} {', '.join(stages)}"
    return Pruning(folder, paths, what, sum(map(folder_bytes, paths))) if paths else None


def _is_prunable(checkpoint: Path) -> bool:
    """Return whether a checkpoint has an optimizer state, and is complete without it."""
    return all((checkpoint / name).is_file() for name in (STATE, "meta.json", "model.safetensors"))


def _prune(pruning: Pruning) -> None:
    """Remove the files of one run, unless it was started again. A kill leaves each checkpoint folder whole or none."""
    with acquire_run_lock(pruning.folder):
        summary = read_summary(pruning.folder)
        if summary is None or summary["status"] != "done":
            return
        for path in pruning.paths:
            if not path.is_dir():
                remove_path(path)
                continue
            remove_stale_temporaries(path.parent, path.name)
            temporary = temporary_path(path)
            os.rename(path, temporary)
            remove_path(temporary)
