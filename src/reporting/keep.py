"""What a report needs of its runs, small enough to stand under version control; and whether others repeat them.

    KEPT/  sweep.json  learning_rates.json  runs/<run>/{summary.json, evaluation.json, metrics.jsonl, samples/}

A folder like any other for `src.report`, which makes the same report of it: metrics are thinned, checkpoints, logs and
configurations stay behind, and so does what names a place on this machine. Of generated texts, those stay behind that
have a long stretch of the training text in them, or were never compared with it.
"""

import json
from pathlib import Path

import pandas as pd

from src.config import UserError
from src.reporting.load import load_evaluation, read_points, to_records
from src.reporting.values import Record, as_dict, as_list, as_text, read_or_none
from src.runtime.files import replace_folder, write_json, write_text

ROWS = 100
"""Of metrics that are kept of a run, those of the validation among them."""
OF_THIS_MACHINE = ("output_root=", "data.dir=", "tracking.", "launcher.", "launcher=", "sweep.", "hydra.")
"""Overrides that say where and how, and change nothing of what was learned."""


def keep_runs(directory: Path, runs: pd.DataFrame, out: Path) -> int:
    """Copy what a report is made of, and return how many bytes that is.

    runs: those of `directory`, as `load_runs` gives them. Raises: UserError where `out` holds something else.
    """
    real = any(out.glob("runs/*/config.yaml"))  # what is kept of runs has none
    if out.exists() and any(out.iterdir()) and (real or not (out / "runs").is_dir()):
        raise UserError(f"keep={out}: is a folder with something else in it; name a new one")
    sweep = as_dict(read_or_none(directory / "sweep.json"))
    if sweep:
        write_json(out / "sweep.json", {**sweep, "jobs": [_job(as_dict(job)) for job in as_list(sweep.get("jobs"))]})
    if (searches := read_or_none(directory / "learning_rates.json")) is not None:
        write_json(out / "learning_rates.json", searches)
    with replace_folder(out / "runs") as folder:
        for record in to_records(runs):
            _keep_run(Path(record["run_dir"]), folder / str(record["run"]))
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
    if isinstance(summary, dict):  # its error may name a path
        write_json(out / "summary.json", {**as_dict(summary), "error": None})
    if isinstance(evaluation, dict):
        write_json(out / "evaluation.json", evaluation)
    rows = read_points(folder / "metrics.jsonl", ROWS)
    write_text(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for stage, found in load_evaluation(folder).items():
        texts = as_list(read_or_none(folder / "samples" / f"{stage}.json"))
        shares = found["samples"]
        fresh = [text for text, share in zip(texts, shares, strict=False) if share == 0]
        if fresh:
            write_json(out / "samples" / f"{stage}.json", fresh)


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
