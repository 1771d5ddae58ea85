"""`python -m src.evaluate run=DIR`: evaluate the finished stages of a run on the test split and by probes."""

import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.command import run_cli, run_command
from src.cli.compose import read_run_config
from src.cli.next_command import command_of, print_next, raw_argument
from src.config.checks import check_settings
from src.config.formatting import NOTHING, fit_text, show_time, table, terminal_width
from src.config.schema import EvaluateConfig, RuntimeConfig, TrainConfig, UserError

if TYPE_CHECKING:
    from src.data.dataset import Data
    from src.runs.summary import Summary

FORWARD_SPEED = 3
"""Speed of prediction as a multiple of that of training: its FLOPs are a third."""


def evaluate(config: EvaluateConfig) -> int:
    """Evaluate a run, write its evaluation.json and print the results.

    Raises:
        UserError: a setting is invalid, there is no such run, or its data are missing or different.
    """
    check_settings(config)

    from src.runs.evaluation_file import EVALUATION, finished_stages
    from src.runs.final_evaluation import evaluate_run
    from src.runs.lm_eval_tasks import load_tasks, measure_tasks
    from src.runs.summary import read_summary
    from src.runtime.device import open_device
    from src.runtime.run_lock import acquire_run_lock

    folder = Path(config.run).expanduser().resolve()
    if not (folder / "config.yaml").is_file():
        raise UserError(f"run={config.run}: no run directory of src.train; its last line names it")
    known = replace(read_run_config(folder / "config.yaml"), evaluation=config.evaluation)
    finished_stages(known, folder)
    data, summary = _open_data(config, known), read_summary(folder)
    assert summary is not None, "finished_stages has read it"
    if data.fingerprint != (trained_on := str(summary["contract"].get("data_hash"))):
        raise UserError(f"{data.location}: {data.fingerprint[:12]}, but the run was trained on {trained_on[:12]}")
    if config.tasks and known.data.is_task:
        raise UserError(
            f"tasks={','.join(config.tasks)}: the run was trained on a task and reads no text; leave it out"
        )
    if config.dry_run:
        print("\n".join(describe_dry_run(known, data, folder, summary, config)))
        return 0
    runtime = RuntimeConfig(
        "evaluate", config.device, known.runtime.precision, threads=config.threads or known.runtime.threads
    )
    log_info = partial(print, file=sys.stderr)
    device, tasks = open_device(runtime), load_tasks(config.tasks) if config.tasks else None
    with acquire_run_lock(folder):
        found = evaluate_run(known, data, folder, device, log_info, rerun=config.rerun)
        if tasks is not None:
            found = measure_tasks(known, folder, device, tasks, log_info, rerun=config.rerun)
    last = [entry for name, entry in found["stages"].items() if known.stage.stages[name].branch_of is None][-1]
    if config.format == "json":
        own = last["test"][last["corpus"]] or dict.fromkeys(("loss", "bits_per_byte", "tokens"))
        print(json.dumps({**own, **found}, indent=2))
    else:
        print(fit_text(describe(found), terminal_width()))
        print(f"Evaluation: {folder / EVALUATION}")
        print_next([command_of("report", raw_argument("dir", config.run))])
    return 0


def _open_data(config: EvaluateConfig, known: TrainConfig) -> "Data":
    """Open the data that a run was trained on. Raises: UserError."""
    from src.data.dataset import MANIFEST, TaskData, load_prepared

    if known.data.is_task:
        if config.data_dir is not None:
            raise UserError(
                f"data_dir={config.data_dir}: the run was trained on a task, which is generated; leave it out"
            )
        return TaskData(known.data)
    data_dir = Path(config.data_dir or str(known.data.dir)).expanduser()
    if not (data_dir / MANIFEST).is_file():
        raise UserError(f"data_dir={data_dir}: no prepared data there; give the folder that the run was trained on")
    return load_prepared(data_dir)


def describe_dry_run(
    known: TrainConfig, data: "Data", folder: Path, summary: "Summary", config: EvaluateConfig
) -> list[str]:
    """Describe what would be measured, and how long the test text would take by the speed of the run's training."""
    from src.data.dataset import PreparedData
    from src.runs.evaluation_file import evaluated_stages, finished_stages

    length, settings = known.training.seq_len, known.evaluation
    windows = {
        corpus: min(known.training.test_sequences, (len(data.tokens(corpus, "test")) - 1) // length)
        if isinstance(data, PreparedData)
        else known.training.test_sequences
        for corpus in data.corpora
    }
    tokens, speed = sum(windows.values()) * length, summary["final"] and summary["final"]["tokens_per_second"]
    done, lines = set() if config.rerun else evaluated_stages(known, folder), list[str]()
    for name in finished_stages(known, folder):
        parts = [f"{n} windows of {length:,} tokens of {corpus}" for corpus, n in windows.items()]
        parts += ["probes"] if settings.probes and isinstance(data, PreparedData) else []
        stage = known.stage.stages[name]
        parts += (
            [f"{settings.scripts * len(stage.prompts)} scripts"] if stage.corpus == "code" and settings.scripts else []
        )
        lines.append(f"{name}: {'evaluated already; rerun=true does it again' if name in done else ', '.join(parts)}")
    if speed and any(name not in done for name in finished_stages(known, folder)):
        seconds = tokens / (FORWARD_SPEED * speed)
        lines.append(
            f"The windows take about {show_time(seconds)} a stage, at {FORWARD_SPEED} times the speed of training"
        )
    if config.tasks:
        lines.append(f"Tasks of lm-eval for each stage: {', '.join(config.tasks)}")
    return [*lines, "Nothing was measured or written."]


def describe(found: dict[str, Any]) -> list[str]:
    """Format the content of an evaluation.json as text."""
    lines: list[str] = []
    for stage, entry in found["stages"].items():
        rows = [
            [corpus, _show(value["loss"]), _show(value["bits_per_byte"]), f"{value['tokens']:,}"]
            for corpus, value in entry["test"].items()
            if value is not None
        ]
        if answers := entry.get("answers"):
            rows = [[*row[:1], row[1], _show(entry["test"][row[0]]["accuracy"]), row[3]] for row in rows]
            columns = (answers[key] for key in ("length", "value", "n", "loss", "accuracy"))
            rows += [
                [
                    f"length {length}" + (f", {answers['difficulty']} {value}" if value else ""),
                    _show(loss),
                    _show(share),
                    f"{n:,}",
                ]
                for length, value, n, loss, share in zip(*columns, strict=True)
            ]
            lines += [f"After the {stage} stage", *table(["test", "loss", "accuracy", "answers"], rows), ""]
            continue
        lines += [f"After the {stage} stage", *table(["test text", "loss", "bits per byte", "tokens"], rows)]
        if positions := entry.get("beyond") or entry.get("context", {}).get("positions"):
            header = ["loss by position, past the training context too", *map(str, positions["to"])]
            lines += ["", *_wide_table(header, [["loss", *map(_show, positions["loss"])]])]
        if probes := entry.get("probes"):
            distances = sorted({distance for values in probes.values() for distance in values["to"]})
            rows = []
            for name, values in probes.items():
                for kind in ("accuracy", "gain"):
                    by_distance = dict(zip(values["to"], values[kind], strict=True))
                    rows.append([f"{name}, {kind}", *(_show(by_distance.get(distance)) for distance in distances)])
            lines += ["", *_wide_table(["probe, by distance", *map(str, distances)], rows)]
        if scripts := entry.get("scripts"):
            shares = [[key.replace("_", " "), _show(scripts[key])] for key in scripts if key != "n"]
            lines += ["", *table([f"{scripts['n']} generated scripts", ""], shares)]
        if tasks := entry.get("tasks"):
            rows = [row for name, task in tasks.items() for row in _task_rows(name, task)]
            lines += ["", *table(["task of lm-eval", "metric", "value", "95% interval", "items"], rows)]
        lines.append("")
    return [*lines, *_notes(found)]


def _task_rows(name: str, task: dict[str, Any]) -> list[list[str]]:
    """List the metrics of a task, with the intervals of those that have a value for each item."""
    from src.reporting.statistics.task_scores import interval_of

    rows: list[list[str]] = []
    for metric, found in task["metrics"].items():
        known = interval_of(found["items"])
        interval = f"{known.low:.3f} to {known.high:.3f}" if known else NOTHING
        rows.append([name, metric, _show(found["value"]), interval, f"{task['n']:,}"])
    return rows


def _wide_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Format a table of which a narrow terminal leaves out every other column first, and never the last."""
    return table(header, rows, [*header[2:-1:2], *header[1:-1:2]], terminal_width())


def _notes(found: dict[str, Any]) -> list[str]:
    notes: list[str] = []
    if any(entry.get("probes") for entry in found["stages"].values()):
        notes.append("gain: loss without the mention minus loss with it, in nats.")
    if any(entry.get("scripts") for entry in found["stages"].values()):
        notes.append(
            f"valid: bash -n (bash {found['bash'] or 'not found'}) accepts them; generated scripts are never run. "
            f"Findings: shellcheck {found['shellcheck'] or 'not found: pip install -e .[shellcheck]'}. memorised: "
            "fraction of tokens in sequences of 24 that occur in the training text."
        )
    return notes


def _show(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def main(argv: list[str]) -> int:
    return run_command("evaluate", EvaluateConfig, evaluate, argv, ("run",))


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
