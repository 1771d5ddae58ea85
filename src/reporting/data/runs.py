"""Read a directory of runs into DataFrames, whatever state the runs are in.

A report can be written at any time: jobs that never started, still run, failed or were killed all get a row
that says so, and a file that cannot be read becomes the row's error instead of an exception.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from src.config.comparability import with_current_names
from src.config.schema import UserError
from src.reporting.data.archive import run_folders
from src.reporting.data.find_runs import FoundRun, find_runs
from src.reporting.data.json_values import (
    Record,
    as_dict,
    as_list,
    as_number,
    as_numbers,
    as_text,
    clean_text,
    read_or_none,
)
from src.reporting.data.metric import METRICS
from src.reporting.data.shared_results import shared
from src.runtime.records import is_plain_name, read_verified_json

DESCRIPTION = ("run", "architecture", "size", "recipe", "stage", "data", "seed", "status")
PARAMETERS = ("total_params", "active_params", "non_embedding_params")
TESTED = ("test_loss", "test_bits_per_byte", "test_accuracy")
LEARNED = ("tokens", "train_flops", "val_loss", "val_bits_per_byte", "val_accuracy", *TESTED)
SPENT = ("tokens_per_second", "peak_memory_bytes", "wall_time_s")
RESULTS = (*LEARNED, *SPENT)
COLUMNS = (*DESCRIPTION, *PARAMETERS, *RESULTS, "error")
"""The columns that come first, in this order, and are always there."""

STAGE_RESULTS = (*(key for key in RESULTS if key not in TESTED), "best_val_loss", "skipped_steps")
REFERENCES = ("uniform_loss", "unigram_loss", "floor_bits_per_byte", "bytes_per_token")
"""What a loss is read against; written beside each stage's results."""
FLOOR = "entropy floor"
ABOVE_FLOOR = "above_floor_bits_per_byte"
"""On the windows of the test loss, whose own exact entropy is known where the text is generated."""

BRANCH_OF = "branch_of"
"""The stage that a stage is a branch of: it has the result of a smaller budget. Only branches have the column."""
REPLICATES = ("data_order_seed", "look")
"""Besides the seed: that of the order of the data where it is another, and the look of `seeds=auto`, counted from 0."""
ACCOUNTED = ("active_non_embedding_params", "train_flops_per_token", "state_bytes")
MORE_COLUMNS = (*ACCOUNTED, "match", "match_residual", "solved", "device", "threads", "precision", *REPLICATES)
INTEGERS = ("seed", *REPLICATES, "tokens", "peak_memory_bytes", "skipped_steps", "threads")
NUMBERS = (*RESULTS, *ACCOUNTED[1:], *REFERENCES, ABOVE_FLOOR, "best_val_loss", "match_residual")

ARCHITECTURES = (
    "dense", "mamba", "moe", "hybrid", "mamba1", "jamba", "griffin", "moe_hybrid", "gated_deltanet", "dense_conv",
    "dense_qk_norm", "window_attention",
)  # fmt: skip
"""The order in which they are shown; others follow."""

EVALUATED = ("references", "context", "beyond", "probes", "answers", "distance", "tasks")
"""Parts of a stage's evaluation that are mappings."""
_NOT_EVALUATED: Record = {"references": {}, "test": {}, "context": {}}
FINAL_STATUSES = ("done", "failed", "interrupted")


def load_runs(directory: str | Path) -> pd.DataFrame:
    """Load a row a run from a sweep, a run, a folder of runs, or an output root that has runs/.

    Sorted by size (smallest model first), architecture and seed: not by result.
    Columns: COLUMNS, MORE_COLUMNS, then `<stage>/<value>` for each of STAGE_RESULTS, REFERENCES, TESTED, ABOVE_FLOOR
    (and BRANCH_OF of a branch), `run_dir`, and `contract` (a dict). Numbers that are not known yet are missing. Raises:
    UserError without any run.
    """
    rows = _in_order([_row(found) for found in find_runs(run_folders(Path(directory)))])
    per_stage = dict.fromkeys(key for row in rows for key in row if "/" in key)
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *MORE_COLUMNS, *per_stage, "run_dir", "contract"])
    for column in frame.columns:
        name = str(column).rpartition("/")[2]
        values = [row.get(str(column)) for row in rows]
        if name in INTEGERS or name.endswith("_params"):
            frame[column] = pd.array([_as_int64(value) for value in values], dtype="Int64")
        elif name in NUMBERS:
            frame[column] = [math.nan if value is None else float(value) for value in values]
    return frame


def _as_int64(value: float | None) -> int | None:
    """Return a whole number that the column can hold; None for any other."""
    return None if value is None or abs(value) >= 2**63 else round(value)


def load_evaluation(run_dir: str | Path) -> dict[str, Record]:
    """Load the content of a run's evaluation.json for each stage; see `_load_evaluation`."""
    return _load_evaluation(Path(run_dir).resolve())


@shared
def _load_evaluation(run_dir: Path) -> dict[str, Record]:
    """Load the content of a run's evaluation.json for each stage; damaged parts are left out.

    Always there: corpus, weights (SHA-256), test (corpus -> loss, bits_per_byte), documents (corpus -> first, nats and
    bytes of each), scripts, samples (of each, the share that occurs in the training text), and those of EVALUATED.
    """
    content = as_dict(read_or_none(run_dir / "evaluation.json"))
    found: dict[str, Record] = {}
    for stage, entry in _stages(content):
        values = as_dict(entry)
        parts = {name: as_dict(values.get(name)) for name in EVALUATED}
        test = {corpus: as_numbers(each) for corpus, each in as_dict(values.get("test")).items()}
        found[stage] = {
            "corpus": as_text(values.get("corpus")),
            "test": test,
            "scripts": as_numbers(values.get("scripts")),
            "documents": {corpus: as_dict(each) for corpus, each in as_dict(values.get("documents")).items()},
        }
        samples = [as_number(share) for share in as_list(values.get("samples"))]
        found[stage] |= parts | {"weights": as_text(values.get("weights_sha256")) or "", "samples": samples}
    return found


def _stages(content: Record) -> list[tuple[str, Any]]:
    """List the stages of a file and their content; invalid names are left out, because file names are made of them."""
    return [(stage, entry) for stage, entry in as_dict(content.get("stages")).items() if is_plain_name(stage)]


@shared
def split_of(records: Sequence[Record], stages: Sequence[str]) -> str:
    """Return which split the finished runs are compared on: test if each was evaluated on it, else val."""
    done = [record for record in records if record["status"] == "done"]
    reached = [(record, stage) for record in done for stage in stages if record.get(f"{stage}/val_loss") is not None]
    keys = [f"test_{metric.key}" for metric in METRICS]
    tested = [any(record.get(f"{stage}/{key}") is not None for key in keys) for record, stage in reached]
    return "test" if tested and all(tested) else "val"


@shared
def stage_names(runs: pd.DataFrame) -> list[str]:
    """Name the stages that any run has reached, in order."""
    return [str(column).rpartition("/")[0] for column in runs.columns if str(column).endswith("/val_loss")]


@shared
def branches_of(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Name the branches of each stage that has any, in order: of budgets smaller than that of the stage itself."""
    found: dict[str, list[str]] = {}
    for column in runs.columns:
        stage, _, name = str(column).rpartition("/")
        if name == BRANCH_OF:
            for origin in runs[column].dropna().unique():
                found.setdefault(str(origin), []).append(stage)
    return found


@shared
def to_records(frame: pd.DataFrame) -> list[Record]:
    """Turn rows into dicts, with None for every missing value."""
    names, rows, present = list(frame.columns), frame.astype(object).to_numpy(), frame.notna().to_numpy()
    return [  # six times as fast as DataFrame.to_dict
        {name: value if is_there else None for name, value, is_there in zip(names, *pair, strict=True)}
        for pair in zip(rows, present, strict=True)
    ]


def finished_records(runs: pd.DataFrame) -> list[Record]:
    """Return the rows of finished runs, as `to_records` does."""
    return [record for record in to_records(runs) if record["status"] == "done"]


def _row(found: FoundRun) -> Record:
    summary, problem = _read_summary(found)
    row: Record = {key: as_text(summary.get(key, found.planned.get(key))) for key in DESCRIPTION}
    row["run"], row["run_dir"] = found.run, str(found.run_dir.resolve())
    if found.variant:
        row["architecture"] = f"{row['architecture']} {found.variant}"
    row["seed"] = as_number(summary.get("seed", found.planned.get("seed")))
    row["data_order_seed"], row["look"] = as_number(summary.get("data_order_seed")), as_number(found.look)
    row["status"], row["error"] = _status(found, summary, problem)
    accounting, final = as_dict(summary.get("accounting")), as_dict(summary.get("final"))
    row.update({key: as_number(accounting.get(key, found.planned.get(key))) for key in (*PARAMETERS, *ACCOUNTED)})
    row.update({key: as_number(final.get(key)) for key in RESULTS})
    environment, solved = as_dict(summary.get("environment")), as_dict(summary.get("solved"))
    row.update(match=as_text(summary.get("match")), match_residual=as_number(summary.get("match_residual")))
    row.update(solved=" ".join(f"{key}={value}" for key, value in solved.items()) or None)
    row.update(device=as_text(environment.get("device")), threads=as_number(environment.get("threads")))
    row.update(precision=as_text(environment.get("precision")), contract=_contract(summary))
    assessed = load_evaluation(found.run_dir)
    for stage, entry in _stages(summary):
        values, evaluation = as_dict(entry), assessed.get(stage) or _NOT_EVALUATED
        references = evaluation["references"] or as_dict(values.get("references"))
        tested = evaluation["test"].get(values.get("corpus"), {})
        origin = as_text(values.get("branch_of"))
        if origin is not None:
            row[f"{stage}/{BRANCH_OF}"] = origin
        for key in TESTED:
            row[f"{stage}/{key}"] = tested.get(key.removeprefix("test_"))
            if origin is None:  # of the last stage that is no branch, as all results of a run
                row[key] = row[f"{stage}/{key}"]
        row.update({f"{stage}/{key}": as_number(values.get(key)) for key in STAGE_RESULTS})
        row.update({f"{stage}/{key}": as_number(references.get(key)) for key in REFERENCES})
        row[f"{stage}/{ABOVE_FLOOR}"] = as_number(evaluation["context"].get(ABOVE_FLOOR))
    return row


def _contract(summary: Record) -> Record:
    """Return the contract in printable text: the file may come from somebody else."""
    values = with_current_names(as_dict(summary.get("contract"))).items()
    return {clean_text(key): clean_text(value) if isinstance(value, str) else value for key, value in values}


def _in_order(rows: list[Record]) -> list[Record]:
    amounts: dict[Any, list[float]] = {}
    for row in rows:
        amounts.setdefault(row["size"], []).append(row["total_params"] or math.inf)
    known = {name: index for index, name in enumerate(ARCHITECTURES)}

    sweep_order = {name: index for index, name in enumerate(dict.fromkeys(str(row["architecture"]) for row in rows))}

    def place(row: Record) -> tuple[Any, ...]:
        whole, size = str(row["architecture"]), str(row["size"])
        name, _, varied = whole.partition(" ")  # what the sweep varies of it stays in the order of the sweep
        order = sweep_order[whole] if varied else 0
        return min(amounts[row["size"]]), size, known.get(name, len(known)), name, order, row["seed"] or 0

    return sorted(rows, key=place)


def _read_summary(found: FoundRun) -> tuple[Record, str | None]:
    """Return the summary, or an empty one and why it cannot be read."""
    path = found.run_dir / "summary.json"
    if not path.is_file():
        return {}, "summary.json is missing"
    try:
        content = read_verified_json(path, "train the run again with rerun=true")
    except UserError as error:
        return {}, str(error).removeprefix(f"{found.run_dir}/")
    return (as_dict(content), None) if isinstance(content, dict) else ({}, "summary.json holds no summary")


def _status(found: FoundRun, summary: Record, problem: str | None) -> tuple[str, str | None]:
    """Decide status and error. The sweep's record of a finished job takes precedence over the summary of a process
    that was killed; if the sweep itself was killed, the summary takes precedence over its "running", and if another
    command went on with the run to its end, over its "interrupted"."""
    own, error = as_text(summary.get("status")), as_text(summary.get("error"))
    job = found.job_record or {}
    known = as_text(job.get("status"))
    if known == "interrupted" and own == "done":
        return own, None
    if known in FINAL_STATUSES and not (known == "done" and problem):
        return str(known), None if known == "done" else as_text(job.get("error")) or error
    if own:
        return own, error
    if known == "running":
        return known, None
    never_started = found.planned and found.job_record is None and not found.run_dir.exists()
    return ("pending", None) if never_started else ("unknown", problem)


def reference_losses(record: Record, stage: str) -> dict[str, tuple[float, float | None]]:
    """Return (nats per token, bits per byte) of what a loss is read against, as far as it is known.

    uniform: every token equally likely. unigram: entropy of the token frequencies. entropy floor: the
    exact entropy of the generated corpus.
    """
    size = record.get(f"{stage}/bytes_per_token")
    found: dict[str, tuple[float, float | None]] = {}
    for name in ("uniform", "unigram"):
        loss = record.get(f"{stage}/{name}_loss")
        if loss is not None:
            found[name] = (loss, loss / math.log(2) / size if size else None)
    floor = record.get(f"{stage}/floor_bits_per_byte")
    if floor is not None and size:
        found[FLOOR] = (floor * math.log(2) * size, floor)
    return found
