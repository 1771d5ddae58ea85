"""Dry runs (`dry_run=true`): every job with its cost, what is missing, and what prevents a ranking of the runs.

Nothing is started, prepared or written. Times are estimated from what was measured in `output_root`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.command_line import job_names
from src.config.formatting import (
    NOTHING,
    count_of,
    fit_text,
    show_bytes,
    show_count,
    show_flops,
    show_time,
    table,
    terminal_width,
)
from src.config.schema import TrainConfig
from src.data.dataset import Data, find_data
from src.model.cost.memory_estimate import checkpoint_bytes
from src.model.cost.model_cost import ModelCost, model_cost
from src.model.size_matching import Match, match_config
from src.reporting.data.find_runs import variants
from src.reporting.statistics.verdicts import comparability_warnings
from src.runs.planning import (
    CheckStages,
    call_once,
    check_jobs,
    check_machine,
    check_stages,
    is_on_this_machine,
    make_plan,
    not_prepared,
    reject_duplicate_runs,
    show_progress,
)
from src.runs.resource_check import memory_needed, resolve_micro_batch
from src.runs.speed_estimate import Speed, estimate_speed, find_measured
from src.runs.summary import read_summary
from src.runs.tuned_learning_rates import describe_transfers, with_search_differences
from src.runtime.host import PROCESS_BYTES, free_bytes, machine_bytes
from src.training.stage_budget import stage_tokens, trained_budgets

if TYPE_CHECKING:
    from src.training.checkpoint import CheckpointInfo

DROPPED = ("solved", "status", "storage", "parameters", "FLOPs", "active", "memory")
"""The columns that a narrow terminal leaves out, in this order."""


@dataclass(frozen=True)
class PlannedJob:
    """A job that was not started, with its cost."""

    config: TrainConfig
    match: Match
    cost: ModelCost
    data: Data | None
    """None if it is not prepared yet."""
    run: str | None
    """None: the name depends on data that is not prepared yet."""
    status: str
    """new, goes on or done."""
    contract: dict[str, Any]
    tokens: int
    speed: Speed | None

    @property
    def time_s(self) -> float | None:
        if self.config.training.max_seconds is not None:
            return self.config.training.max_seconds * trained_budgets(self.config)
        return None if self.speed is None else self.tokens / self.speed.tokens_per_second

    @property
    def flops(self) -> float:
        return self.tokens * self.cost.train_flops_per_token

    @cached_property
    def memory_bytes(self) -> int:
        resolved = resolve_micro_batch(self.config, self.match.spec, machine_bytes() - PROCESS_BYTES)
        return memory_needed(resolved, self.match.spec).total

    @property
    def storage_bytes(self) -> int:
        return sum(checkpoint_bytes(self.match.spec, self.config.training.memory)) * len(self.config.stage.stages)

    def show_time(self, flops: float) -> str:
        """Write the time, or the FLOPs as a multiple of `flops` if nothing was measured."""
        return f"{self.flops / flops:.1f}x" if self.time_s is None else self.show_seconds(self.time_s)

    def show_seconds(self, seconds: float) -> str:
        """Write a time that follows from the speed of this job, with ~ if another model was measured."""
        is_exact = self.config.training.max_seconds is not None or (self.speed is not None and self.speed.is_measured)
        return f"{'' if is_exact else '~'}{show_time(seconds)}"


def describe_dry_run(looks: list[list[list[str]]]) -> str:
    """Describe the jobs of a command line, for each look of `seeds=auto`.

    Raises: UserError as the command itself.
    """
    jobs = looks[-1]
    found = inspect_jobs(jobs)
    names = job_names([job.config.architecture.name for job in found], jobs)
    if len(jobs) == 1:
        names = [f"{found[0].config.architecture.name} {found[0].config.size.name}"]
    reject_duplicate_runs([job.run or name for job, name in zip(found, names, strict=True)])
    totals = [f"Total: {format_total(found)}"]
    if len(looks) > 1:
        first = [job for job, overrides in zip(found, jobs, strict=True) if overrides in looks[0]]
        totals = [f"At the first look: {format_total(first)}", f"At most: {format_total(found)}"]
    missing, transfers = missing_lines(found), describe_transfers([job.config for job in found])
    return fit_text(
        [
            *_format_table(found, names),
            "",
            *totals,
            *time_notes(found),
            "Estimates, of training alone. Active: parameters used per token, without embeddings. Storage: two "
            "checkpoints per stage. Nothing was started.",
            *(["", "Missing", *(f"  {line}" for line in missing)] if missing else []),
            *(
                ["", "Learning rates of sizes that were not searched", *(f"  {line}" for line in transfers)]
                if transfers
                else []
            ),
            "",
            *_describe_comparability(found, names, jobs),
        ],
        terminal_width(),
    )


def inspect_jobs(jobs: list[list[str]]) -> list[PlannedJob]:
    """Return what each job would train and cost. Raises: UserError as the command itself."""
    from src.runs.contract import build_contract
    from src.runtime.device import open_device  # imports torch

    checked = check_jobs(jobs)
    roots = {Path(config.output_root).expanduser() for config, _ in checked}
    measured = {
        kind: find_measured(roots, kind) for kind in {open_device(config.runtime).kind for config, _ in checked}
    }
    found: list[PlannedJob] = []
    find, check = call_once(find_data), call_once(check_stages)
    for given, init in show_progress(checked, "Inspecting jobs"):
        data = find(given.data, given.tokenizer, Path(given.output_root).expanduser())
        config, run, status = _resolve_run(given, init, data, check)
        match, device = match_config(config), open_device(config.runtime)
        cost = model_cost(match.spec, config.training.seq_len)
        known, architecture = measured[device.kind], config.architecture.name
        speed = estimate_speed(architecture, match.spec, cost, config.training.seq_len, known)
        contract, tokens = build_contract(config, data, init, device), sum(stage_tokens(config).values())
        found.append(PlannedJob(config, match, cost, data, run, status, contract, tokens, speed))
    return found


def _resolve_run(
    config: TrainConfig, init: "CheckpointInfo | None", data: Data | None, check: CheckStages
) -> tuple[TrainConfig, str | None, str]:
    """Return the resolved configuration, the name of the run and its status."""
    if data is None:
        check_machine(config, Path(config.output_root).expanduser())
        return with_search_differences(config, data, init), None, "new"
    plan = make_plan(config, init, data, check)
    summary = None if config.rerun else read_summary(plan.folder)
    status = "new" if summary is None else "done" if summary["status"] == "done" else "goes on"
    return plan.config, plan.folder.name, status


def _format_table(found: list[PlannedJob], names: list[str]) -> list[str]:
    header = ["job", "status", "solved", "parameters", "active", "tokens", "FLOPs", "memory", "storage", "time"]
    rows = [
        [
            name,
            job.status,
            ", ".join(f"{knob}={value}" for knob, value in job.match.solved.items()) or NOTHING,
            show_count(job.cost.total_params),
            show_count(job.cost.active_non_embedding_params),
            show_count(job.tokens),
            show_flops(job.flops),
            show_bytes(job.memory_bytes),
            show_bytes(job.storage_bytes),
            job.show_time(found[0].flops),
        ]
        for name, job in zip(names, found, strict=True)
    ]
    return table(header, rows, DROPPED, terminal_width())


def format_total(found: Sequence[PlannedJob]) -> str:
    left = [job for job in found if job.status != "done"]
    flops, storage = show_flops(sum(job.flops for job in left)), show_bytes(sum(job.storage_bytes for job in left))
    jobs = f"{count_of(len(found), 'job')}, {len(found) - len(left)} of them done"
    return f"{jobs}; to do: {flops} FLOPs, {storage}, {total_time(left)}."


def total_time(jobs: Sequence[PlannedJob], times: float = 1.0) -> str:
    """Write the time of jobs that run one after the other, each `times` times."""
    seconds = [job.time_s for job in jobs]
    if None in seconds:
        return "time unknown"
    return f"about {show_time(times * sum(each for each in seconds if each is not None))} one after the other"


def time_notes(found: Sequence[PlannedJob]) -> list[str]:
    """Explain how the times were estimated, where they were not measured with the same model."""
    if any(job.time_s is None for job in found):
        return [
            "Time: nothing was measured here on this kind of device, so it is the FLOPs as a multiple of the first "
            "job. Architectures differ in FLOP/s: python -m src.benchmark with these settings measures them."
        ]
    if any(job.speed is not None and not job.speed.is_measured for job in found):
        return [
            "~: by the FLOP/s of another model that was measured here; architectures differ in FLOP/s: "
            "python -m src.benchmark with these settings measures them."
        ]
    return []


def missing_lines(found: Sequence[PlannedJob]) -> list[str]:
    """Name what has to be done before the jobs, and what they would go without."""
    lines: list[str] = []
    for job in found:
        config = job.config
        if job.data is None and is_on_this_machine(config.data):
            lines.append(f"data={config.data.name}: not prepared yet; the command does it first")
        elif job.data is None:
            lines.append(not_prepared(config.data, config.tokenizer, Path(config.output_root).expanduser()))
    needed: dict[Path, int] = {}
    for job in found:
        root = Path(job.config.output_root).expanduser()
        needed[root] = needed.get(root, 0) + (job.storage_bytes if job.status == "new" else 0)
    for root, n_bytes in needed.items():
        if n_bytes > (free := free_bytes(root)):
            lines.append(f"output_root={root}: all checkpoints take {show_bytes(n_bytes)}, {show_bytes(free)} are free")
    return [*dict.fromkeys([*lines, *_missing_tools(found)])]


def _missing_tools(found: Sequence[PlannedJob]) -> list[str]:
    from src.evaluation.script_checks import shellcheck_version

    evaluated = [job.config for job in found if job.config.evaluation.enabled and job.config.evaluation.scripts]
    has_scripts = any(stage.corpus == "code" for config in evaluated for stage in config.stage.stages.values())
    if has_scripts and shellcheck_version() is None:
        return ["shellcheck: generated scripts are evaluated without its findings; pip install -e .[shellcheck]"]
    return []


def _describe_comparability(found: list[PlannedJob], names: list[str], jobs: list[list[str]]) -> list[str]:
    """Describe the settings that prevent a ranking of the finished runs."""
    records = [
        {
            "run": name,
            "status": "done",
            "size": job.config.size.name,
            "architecture": f"{job.config.architecture.name} {variant}".strip(),
            "seed": job.config.seed,
            "contract": job.contract,
        }
        for name, job, variant in zip(names, found, variants(jobs), strict=True)
    ]
    return ["Fairness", *(f"  {line}" for line in comparability_warnings(records) or ["all runs are comparable"])]
