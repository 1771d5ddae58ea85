"""The commands that can follow a run, a sweep or a search, with its folders and settings filled in."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from src.cli.command_line import format_argument, given_keys
from src.cli.compose import Sweep, read_run_config
from src.cli.next_command import command_of, export_command, raw_argument, written_overrides
from src.config.schema import TrainConfig
from src.huggingface import is_exportable
from src.model.size_matching import match_config
from src.sweep.job_store import JobStore

N_SEEDS = 3
"""Seeds of a comparison: fewer have no verdict."""
TUNED = {"architecture", "size", "seed"}
"""Settings of which a search takes several values, or chooses them itself."""


def run_commands(folder: Path, config: TrainConfig) -> list[str]:
    """Return the commands that use a finished run: generate, report, export; of a task, evaluate and report."""
    if config.data.is_task:
        return [command_of(name, raw_argument(key, folder)) for name, key in (("evaluate", "run"), ("report", "dir"))]
    prompts = [prompt for stage in config.stage.stages.values() if not stage.branch_of for prompt in stage.prompts[:1]]
    prompt = (prompts[-1] if prompts else "Once upon a time").strip().partition("\n")[0]
    commands = [
        command_of("generate", raw_argument("run", folder), raw_argument("prompt", prompt)),
        command_of("report", raw_argument("dir", folder)),
    ]
    if is_exportable(match_config(config).spec):
        commands.append(export_command(folder, folder.name))
    return commands


def sweep_commands(
    folder: Path, sweep: Sweep, configs: Sequence[TrainConfig], runs: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Return the commands that follow a finished sweep: a search, if there was none, and those of its best run.

    runs: the records of the sweep's report. Not a table: after a run, importing pandas would take most of a second.
    """
    varied = {key for job in sweep.jobs for item in job if item not in _common(sweep) for key in given_keys([item])}
    architectures = {config.architecture.name for config in configs}
    commands: list[str] = []
    is_searched = any(config.optimizer.search != "none" for config in configs)
    if len(architectures) > 1 and varied <= TUNED and not is_searched:
        without = ("seed", "seeds", "optimizer.learning_rate", "sweep.", "sweep_name", "dry_run", "rerun", "hydra.")
        commands.append(command_of("tune", *written_overrides(sweep.overrides, without), "dry_run=true"))
    known = [record for record in runs if record["status"] == "done" and record["val_loss"] is not None]
    if known:
        best = Path(best_record(known)["run_dir"])
        commands += run_commands(folder.parents[1] / "runs" / best.name, read_run_config(best / "config.yaml"))[::2]
    publish = raw_argument("publish_to", Path("results") / folder.name)
    return [*commands, command_of("report", raw_argument("dir", folder), publish)]


def best_record(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the run with the highest accuracy on a task, or else with the lowest loss."""
    return min(runs, key=lambda run: (-(run["val_accuracy"] or 0.0), run["val_bits_per_byte"] or run["val_loss"]))


def _common(sweep: Sweep) -> set[str]:
    return set[str].intersection(*map(set, sweep.jobs))


def comparison_command(overrides: Sequence[str], folders: Sequence[Path], used_seeds: Sequence[int]) -> str:
    """Return the command that compares the searched architectures by their rates, on seeds that no trial used."""
    unused = [seed for seed in range(N_SEEDS + len(used_seeds)) if seed not in used_seeds][:N_SEEDS]
    items = [shlex.split(format_argument("", str(folder)))[0].removeprefix("=") for folder in folders]
    written = written_overrides(overrides, ("seed", "tune.", "dry_run", "rerun", "learning_rates"))
    seeds, rates = f"seed={','.join(map(str, unused))}", shlex.quote(f"learning_rates=[{','.join(items)}]")
    return command_of("train", "-m", *written, seeds, rates)


def comparison_seconds(folders: Sequence[Path]) -> float | None:
    """Return the time of the comparison: that of a trial of each architecture and size, for each seed."""
    times: dict[tuple[str, str], list[float]] = {}
    for store in map(JobStore, folders):
        for job in store.jobs():
            summary = store.summary(job)
            if summary and summary["status"] == "done" and summary["final"]:
                times.setdefault((job.architecture, job.size), []).append(summary["final"]["wall_time_s"])
    return N_SEEDS * sum(map(fmean, times.values())) if times else None
