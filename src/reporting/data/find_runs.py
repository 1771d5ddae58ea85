"""Find the runs of a folder: of a sweep, by sweep.json, or those that are there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.config.schema import UserError
from src.reporting.data.json_values import Record, as_dict, as_list, read_or_none
from src.runtime.records import read_verified_json, run_path


@dataclass
class FoundRun:
    """A run as listed by the folder or by sweep.json, before its own files are read."""

    run: str
    run_dir: Path
    planned: Record = field(default_factory=dict[str, Any])
    """Its entry in sweep.json."""
    job_record: Record | None = None
    """The content of jobs/<run>.json; None outside a sweep and for a job that never started."""
    variant: str = ""
    """What the sweep varies of its architecture."""
    look: Any = None
    """The look of `seeds=auto`, from sweep.json."""


def find_runs(directory: Path) -> list[FoundRun]:
    """List the runs of a sweep, a run, a folder of runs or an output root. Raises: UserError without any run."""
    if not directory.is_dir():
        raise UserError(f"dir={directory}: no such folder; give a sweep, a run or a folder of runs")
    if (directory / "sweep.json").exists():
        return _sweep_runs(directory)
    if is_run(directory):
        return [FoundRun(directory.resolve().name, directory)]
    folder = directory / "runs" if (directory / "runs").is_dir() else directory
    found = [FoundRun(child.name, child) for child in sorted(folder.iterdir()) if is_run(child)]
    if not found:
        sweeps = sorted(str(path.parent) for path in directory.glob("*/sweep.json"))
        remedy = f"give one of its sweeps, such as {sweeps[-1]}" if sweeps else "train first: python -m src.train"
        raise UserError(f"dir={directory}: no run in this folder; {remedy}")
    return found


def is_run(folder: Path) -> bool:
    """Return whether a folder is a run, whatever state it is in."""
    if folder.name.startswith(".") or folder.name.endswith(".old"):  # a folder that is being written or replaced
        return False
    return any((folder / name).is_file() for name in ("summary.json", "metrics.jsonl", "config.yaml"))


def variants(jobs: Sequence[Sequence[str]]) -> list[str]:
    """Name the architecture settings that differ between jobs, from the overrides of each: `window=64`, or empty."""
    settings = [dict(item.split("=", 1) for item in job if item.startswith("architecture.")) for job in jobs]
    keys = dict.fromkeys(key for each in settings for key in each)
    varied = [key for key in keys if len({each.get(key) for each in settings}) > 1]
    return [
        " ".join(f"{key.removeprefix('architecture.')}={each[key]}" for key in varied if key in each)
        for each in settings
    ]


def _sweep_runs(directory: Path) -> list[FoundRun]:
    sweep = read_verified_json(directory / "sweep.json", "repeat the command of the sweep, which writes it again")
    jobs = as_dict(sweep).get("jobs")
    found: list[FoundRun] = []
    listed = [as_dict(job) for job in as_list(jobs)]
    labels = variants([[str(item) for item in as_list(job.get("overrides"))] for job in listed])
    for job, label in zip(listed, labels, strict=True):
        place = run_path(directory, job.get("run"), job.get("run_dir"))
        job_file = directory / "jobs" / f"{place.name}.json"
        record = as_dict(read_or_none(job_file)) if job_file.exists() else None
        found.append(FoundRun(place.name, place, job, record, label, as_dict(sweep).get("look")))
    if not found:
        raise UserError(f"dir={directory}: sweep.json lists no job; repeat the command of the sweep")
    return found
