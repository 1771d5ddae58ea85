"""What a report needs of its runs, small enough to stand under version control; and whether others repeat them.

    KEPT/  sweep.json  learning_rates.json  runs/<run>/{summary.json, evaluation.json, metrics.jsonl, samples/}

A folder like any other for `src.report`, which makes the same report of it: metrics are thinned, checkpoints, logs and
configurations stay behind, and so does what names a place on this machine. Of generated texts, those stay behind that
have a long stretch of the training text in them, or were never compared with it.
"""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from src.config.schema import UserError
from src.reporting.data.json_values import Record, as_dict, as_list, as_text, read_or_none
from src.reporting.data.runs import load_evaluation, read_points, to_records
from src.runtime.atomic_files import refuse_links, replace_folder, write_json, write_text
from src.runtime.records import child_path, mark_of, write_record

ROWS = 100
"""Of metrics that are kept of a run, those of the validation among them."""
OF_THIS_MACHINE = ("output_root=", "data.dir=", "tracking.", "launcher.", "launcher=", "sweep.", "hydra.")
"""Overrides that say where and how, and change nothing of what was learned."""


def keep_runs(directory: Path, runs: pd.DataFrame, out: Path) -> int:
    """Copy what a report is made of, and return how many bytes that is.

    The folder is replaced as a whole, so that a kill leaves the one before; what else was added to it stays.

    runs: those of `directory`, as `load_runs` gives them. Raises: UserError where `out` holds something else.
    """
    real = any(out.glob("runs/*/config.yaml"))  # what is kept of runs has none
    kept_before = out.is_dir() and not out.is_symlink() and (not any(out.iterdir()) or (out / "runs").is_dir())
    if real or (os.path.lexists(out) and not kept_before):
        raise UserError(f"keep={out}: is a folder with something else in it; name a new one")
    refuse_links(out)
    with replace_folder(out) as folder:
        sweep = as_dict(read_or_none(directory / "sweep.json"))
        if sweep:
            jobs = [_job(as_dict(job)) for job in as_list(sweep.get("jobs"))]
            write_record(folder / "sweep.json", {**sweep, "jobs": jobs})
        if searches := as_dict(read_or_none(directory / "learning_rates.json")):
            write_record(folder / "learning_rates.json", searches)
        (folder / "runs").mkdir()
        for record in to_records(runs):
            _keep_run(Path(record["run_dir"]), child_path(folder / "runs", record["run"]))
        for path in out.iterdir() if out.is_dir() else ():
            if path.name not in ("runs", "sweep.json", "learning_rates.json"):
                shutil.copytree(path, folder / path.name) if path.is_dir() else shutil.copy2(path, folder)
    return sum(file.stat().st_size for file in out.rglob("*") if file.is_file())


def _job(job: Record) -> Record:
    """Leave out of a job what is of this machine."""
    words = [str(as_text(item)) for item in as_list(job.get("overrides"))]
    own = [word for word in words if not word.startswith(OF_THIS_MACHINE)]
    return {**job, "run_dir": f"runs/{job.get('run')}", "overrides": own}


def _keep_run(folder: Path, out: Path) -> None:
    if not folder.is_dir():  # never started
        return
    summary, evaluation = (read_or_none(folder / f"{name}.json") for name in ("summary", "evaluation"))
    lines = [json.dumps(row) + "\n" for row in read_points(folder / "metrics.jsonl", ROWS)]
    write_text(out / "metrics.jsonl", "".join(lines))
    if isinstance(summary, dict):  # its error may name a path
        kept = {**as_dict(summary), "error": None}
        for entry in map(as_dict, as_dict(kept.get("stages")).values()):
            entry.pop("samples_sha256", None)  # not all of them are kept
        if metrics := as_dict(kept.get("metrics")):
            kept["metrics"] = {**metrics, **asdict(mark_of(lines))}
        write_record(out / "summary.json", kept)
    if isinstance(evaluation, dict):
        write_record(out / "evaluation.json", as_dict(evaluation))
    for stage, found in load_evaluation(folder).items():
        texts = as_list(read_or_none(folder / "samples" / f"{stage}.json"))
        shares = found["samples"]
        fresh = [text for text, share in zip(texts, shares, strict=False) if share == 0]
        if fresh:
            write_json(child_path(out / "samples", stage, ".json"), fresh)


def repeated_lines(runs: pd.DataFrame, others: pd.DataFrame) -> list[str]:
    """Say which runs of the same name, that is of the same settings and text, have the same weights in both.

    Weights are compared by SHA-256, after every stage.
    """
    ours, theirs = ({record["run"]: _weights(record) for record in to_records(each)} for each in (runs, others))
    both = [run for run, weights in ours.items() if weights and theirs.get(run)]
    unlike = {run: [stage for stage in ours[run] if ours[run][stage] != theirs[run].get(stage)] for run in both}
    unlike = {run: stages for run, stages in unlike.items() if stages}
    if not both:
        return ["No run of the two has the same name and weights that could be compared."]
    same = f"{len(both) - len(unlike)} of {len(both)} runs that were made twice"
    lines = [f"{same} ended with the same weights, bit for bit (SHA-256, after every stage)."]
    lines += [f"{run}: other weights after stage {', '.join(stages)}" for run, stages in unlike.items()]
    once = len(ours.keys() | theirs.keys()) - len(both)
    were = "run was" if once == 1 else "runs were"
    return [*lines, f"{once} {were} made, or evaluated, once only."] if once else lines


def _weights(record: Record) -> dict[str, str]:
    found = load_evaluation(record["run_dir"])
    return {stage: entry["weights"] for stage, entry in found.items() if entry["weights"]}
