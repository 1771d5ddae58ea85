"""Find runs by name, prefix or path, and the sweeps and runs that refer to them."""

import difflib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.config.checks import check_path, shorten
from src.config.renamed import current_key, rename_keys
from src.config.schema import UserError
from src.reporting.data.find_runs import is_run
from src.reporting.data.json_values import as_dict, as_list
from src.runtime.atomic_files import read_yaml
from src.runtime.records import is_plain_name, read_verified_json, run_path
from src.runtime.run_lock import is_run_locked

SWEEPS, TUNING = "sweeps", "tuning"
SWEEP_REMEDY = "repeat the command of the sweep, which writes it again, or give force=true"
MAX_NAMES = 5
"""Names that an error message lists."""


def list_runs(root: Path) -> list[Path]:
    """List the folders of runs below an output root, by name; symbolic links are left out."""
    runs = root / "runs"
    if not runs.is_dir():
        return []
    return [folder for folder in sorted(runs.iterdir()) if not folder.is_symlink() and is_run(folder)]


def find_run(key: str, text: str, root: Path) -> Path:
    """Return the folder of a run that is given by its name, the unique beginning of its name, or its path.

    key: the setting, for messages. Raises: UserError if there is no such run, several, or a symbolic link.
    """
    check_path(key, text)
    shown = f"{key}={shorten(text)}"
    if is_plain_name(text) and os.path.lexists(root / "runs" / text):
        return _check_run(shown, root / "runs" / text)
    runs = list_runs(root)
    found = [folder for folder in runs if text and folder.name.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        more = f" and {len(found) - MAX_NAMES} more" if len(found) > MAX_NAMES else ""
        names = ", ".join(folder.name for folder in found[:MAX_NAMES])
        raise UserError(f"{shown}: {len(found)} runs begin so ({names}{more}); give more of the name")
    path = Path(os.path.abspath(Path(text).expanduser()))
    if text and os.path.lexists(path):
        return _check_run(shown, path)
    near = difflib.get_close_matches(text, [folder.name for folder in runs], 1)
    remedy = f"did you mean {near[0]}?" if near else "python -m src.runs lists the names"
    raise UserError(f"{shown}: no such run in {root / 'runs'}; {remedy}")


def _check_run(shown: str, folder: Path) -> Path:
    if folder.is_symlink():
        raise UserError(f"{shown}: {folder} is a symbolic link; give the path of its target")
    if not folder.is_dir() or not is_run(folder):
        raise UserError(f"{shown}: {folder} is not the folder of a run; python -m src.runs lists the names")
    return folder


def root_of(folder: Path) -> Path:
    """Return the output root of a run."""
    return folder.parent.parent


def folder_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder; links are not followed."""
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size if os.path.lexists(path) else 0
    total = 0
    for place, _, files in os.walk(path):
        for name in files:
            with suppress(FileNotFoundError):  # a run that is training replaces its files
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def is_in_use(folder: Path) -> bool:
    """Return whether a process works in a run."""
    try:
        return is_run_locked(folder)
    except OSError:  # nothing works in a folder that is not writable
        return False


def current_status(status: str, folder: Path) -> str:
    """Return the status of a run; it is interrupted if its process was killed, which left "running" behind."""
    return "interrupted" if status == "running" and not is_in_use(folder) else status


def read_settings(folder: Path) -> dict[str, Any]:
    """Read the config.yaml of a run, with the current names. Raises: UserError if it is missing or damaged."""
    return rename_keys(read_yaml(folder / "config.yaml"), current_key)


def sweeps_of(root: Path, *kinds: str, ignore_damage: bool = False) -> dict[Path, set[Path]]:
    """Return the resolved folders of the runs that each sweep lists. kinds: SWEEPS, TUNING.

    Raises: UserError if a sweep.json is damaged, unless ignore_damage.
    """
    found: dict[Path, set[Path]] = {}
    for file in sorted(file for kind in kinds for file in (root / kind).glob("*/sweep.json")):
        try:
            jobs = as_list(as_dict(read_verified_json(file, SWEEP_REMEDY)).get("jobs"))
            listed = [run_path(file.parent, job.get("run"), job.get("run_dir")) for job in map(as_dict, jobs)]
        except UserError:
            if ignore_damage:
                continue
            raise
        found[file.parent] = {path.resolve() for path in listed}
    return found


def runs_started_from(folder: Path, runs: list[Path]) -> dict[Path, str]:
    """Return the runs whose `init_from` names a run, each with the checkpoint that it names; empty for the default.

    A relative path counts by the name of the run, since it was relative to the folder that the command ran in. A run
    whose config.yaml is damaged cannot be resumed and depends on nothing.
    """
    found: dict[Path, str] = {}
    for other in runs:
        source: Any = None
        with suppress(UserError):
            source = read_settings(other).get("init_from")
        if other == folder or not isinstance(source, str):
            continue
        parts = Path(source).parts
        if folder.name in parts:
            found[other] = "/".join(parts[parts.index(folder.name) + 1 :])
            continue
        with suppress(OSError, RuntimeError, ValueError):
            path = Path(source).expanduser().resolve()
            if path.is_relative_to(folder.resolve()):
                found[other] = str(path.relative_to(folder.resolve())).removeprefix(".")
    return found
