"""Publish the sources of a report, and compare the weights of runs that were repeated.

    PUBLISHED/  sweep.json  learning_rates.json  runs.json.gz  metrics.csv.gz

`src.report` makes the same report from such a folder. Metrics are thinned. Checkpoints, logs, configurations and paths
of this machine are left out, as are generated texts that contain a long part of the training text or were never
compared with it.
"""

import os
import shlex
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from src.config.schema import UserError
from src.reporting.data.archive import (
    EARLIER_RUNS,
    METRICS,
    OTHERS,
    RUNS,
    PublishedRun,
    metrics_lines,
    runs_file,
    write_archive,
)
from src.reporting.data.json_values import Record, as_dict, as_list, as_text, read_or_none
from src.reporting.data.metrics_file import read_points
from src.reporting.data.runs import load_evaluation, to_records
from src.runtime.atomic_files import reject_symlinks, replace_folder
from src.runtime.records import digest_lines, write_record

ROWS = 100
"""Rows of metrics published for each run, those of the validation among them."""
MACHINE_SETTINGS = ("output_root=", "data.dir=", "tracking.", "launcher.", "launcher=", "sweep.", "hydra.")
"""Overrides that do not affect the result."""
PATH_SETTINGS = (
    *("init_from", "data.dir", "data.language.paths", "data.code.paths", "data.code.repositories"),
    *("tokenizer.path", "tokenizer.compare", "learning_rates"),
)
"""Settings whose values are paths of this machine."""


def publish_runs(directory: Path, runs: pd.DataFrame, out: Path) -> int:
    """Publish the sources of a report, and return the size of the folder in bytes.

    The folder is replaced as a whole, so a kill leaves the earlier one; files that were added to it stay.

    runs: those of `directory`, as `load_runs` gives them. Raises: UserError where `out` holds something else.
    """
    earlier = out.is_dir() and not out.is_symlink() and (not any(out.iterdir()) or _is_published(out))
    if os.path.lexists(out) and not earlier:
        raise UserError(f"publish_to={out}: is a folder with something else in it; name a new one")
    reject_symlinks(out)
    published: dict[str, PublishedRun] = {}
    metrics: dict[str, list[Record]] = {}
    for record in to_records(runs):
        if Path(record["run_dir"]).is_dir():  # else it never started
            published[record["run"]], metrics[record["run"]] = _published_run(Path(record["run_dir"]))
    with replace_folder(out) as folder:
        sweep = as_dict(read_or_none(directory / "sweep.json"))
        if sweep:
            jobs = [_job(as_dict(job)) for job in as_list(sweep.get("jobs"))]
            write_record(folder / "sweep.json", {**sweep, "jobs": jobs})
        if searches := as_dict(read_or_none(directory / "learning_rates.json")):
            write_record(folder / "learning_rates.json", searches)
        write_archive(folder, published, metrics)
        for path in out.iterdir() if out.is_dir() else ():
            if path.name not in (RUNS, EARLIER_RUNS, METRICS, "runs", *OTHERS):
                shutil.copytree(path, folder / path.name) if path.is_dir() else shutil.copy2(path, folder)
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def _is_published(folder: Path) -> bool:
    """Return whether a folder holds a published comparison, in the current format or with a folder for each run."""
    earlier = (folder / "runs").is_dir() and not any(folder.glob("runs/*/config.yaml"))  # which runs themselves have
    return runs_file(folder) is not None or earlier


def _job(job: Record) -> Record:
    """Return a job without the overrides that concern this machine."""
    words = [str(as_text(item)) for item in as_list(job.get("overrides"))]
    own = [_without_path(word) for word in words if not word.startswith(MACHINE_SETTINGS)]
    return {**job, "run_dir": f"runs/{job.get('run')}", "overrides": own}


def _published_run(folder: Path) -> tuple[PublishedRun, list[Record]]:
    summary, evaluation = (read_or_none(folder / f"{name}.json") for name in ("summary", "evaluation"))
    rows = [dict(sorted(row.items())) for row in read_points(folder / "metrics.jsonl", ROWS)]  # as the archive has them
    kept = {**as_dict(summary), "error": None} if isinstance(summary, dict) else None  # an error may name a path
    if kept and isinstance(command := kept.get("command"), str):
        kept["command"] = shlex.join(map(_without_path, shlex.split(command)))
    for entry in map(as_dict, as_dict((kept or {}).get("stages")).values()):
        entry.pop("samples_sha256", None)  # not all of them are published
    if kept and (mark := as_dict(kept.get("metrics"))):
        kept["metrics"] = {**mark, **asdict(digest_lines(metrics_lines(rows)))}
    samples: dict[str, list[Any]] = {}
    for stage, found in load_evaluation(folder).items():
        texts = as_list(read_or_none(folder / "samples" / f"{stage}.json"))
        if not_memorized := [text for text, share in zip(texts, found["samples"], strict=False) if share == 0]:
            samples[stage] = not_memorized
    evaluated = as_dict(evaluation) if isinstance(evaluation, dict) else None
    return PublishedRun(summary=kept, evaluation=evaluated, samples=samples), rows


def _without_path(word: str) -> str:
    """Replace a path of this machine in a word of a command by dots."""
    key = word.partition("=")[0]
    return f"{key}=..." if key in PATH_SETTINGS else word


def repeated_lines(runs: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Compare the weights of runs with the same name, that is with the same settings and text.

    Weights are compared by SHA-256, after every stage.
    """
    ours, theirs = ({record["run"]: _weights(record) for record in to_records(each)} for each in (runs, others))
    both = [run for run, weights in ours.items() if weights and theirs.get(run)]
    differing = {run: [stage for stage in ours[run] if ours[run][stage] != theirs[run].get(stage)] for run in both}
    differing = {run: stages for run, stages in differing.items() if stages}
    if not both:
        return ["No run of the two has the same name and weights that could be compared."]
    same = f"{len(both) - len(differing)} of {len(both)} repeated runs"
    lines = [f"{same} ended with the same weights, bit for bit (SHA-256, after every stage)."]
    lines += [f"{run}: different weights after stage {', '.join(stages)}" for run, stages in differing.items()]
    single = len(ours.keys() | theirs.keys()) - len(both)
    were = "run was" if single == 1 else "runs were"
    return [*lines, f"{single} {were} made or evaluated only once."] if single else lines


def _weights(record: Record) -> dict[str, str]:
    found = load_evaluation(record["run_dir"])
    return {stage: entry["weights"] for stage, entry in found.items() if entry["weights"]}
