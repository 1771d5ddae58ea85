"""Dry runs (`dry_run=true`): every job with its cost, and settings that prevent a ranking of the runs.

Nothing is started, prepared or written. Time is estimated from finished runs in `output_root` on the same kind of
device: by the speed of the same model and context, or else by the FLOP/s of the same architecture, or of any.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.command_line import varying_overrides
from src.config.formatting import NOTHING, show_bytes, show_count, show_flops, show_time, table
from src.config.schema import TrainConfig, UserError
from src.data.dataset import PreparedData, find_prepared
from src.model.cost.memory_estimate import checkpoint_bytes
from src.model.cost.model_cost import ModelCost, model_cost
from src.model.size_matching import Match, match_config
from src.reporting.data.runs import variants
from src.reporting.statistics.verdicts import comparability_warnings
from src.runs.planning import check_jobs, check_machine, make_plan, reject_duplicate_runs, show_progress
from src.runs.resource_check import memory_needed, resolve_micro_batch
from src.runs.summary import Summary, read_summary
from src.runs.tuned_learning_rates import with_search_differences
from src.runtime.host import PROCESS_BYTES, machine_bytes
from src.training.stage_budget import stage_tokens, trained_budgets

if TYPE_CHECKING:
    from src.training.checkpoint import CheckpointInfo


@dataclass(frozen=True)
class _Job:
    config: TrainConfig
    match: Match
    cost: ModelCost
    run: str | None
    """None: the name depends on data that is not prepared yet."""
    status: str
    contract: dict[str, Any]
    tokens: int
    tokens_per_second: float | None

    @property
    def time_s(self) -> float | None:
        if self.config.training.max_seconds is not None:
            return self.config.training.max_seconds * trained_budgets(self.config)
        return None if self.tokens_per_second is None else self.tokens / self.tokens_per_second


def describe_dry_run(looks: list[list[list[str]]]) -> str:
    """Describe the jobs of a command line, for each look of `seeds=auto`.

    Raises: UserError as the command itself.
    """
    jobs = looks[-1]
    checked = check_jobs(jobs)
    finished = list(_finished_runs({Path(config.output_root).expanduser() for config, _ in checked}))
    found = [_inspect_job(config, init, finished) for config, init in show_progress(checked, "Inspecting jobs")]
    names = (
        varying_overrides(jobs)
        if len(jobs) > 1
        else [f"{found[0].config.architecture.name} {found[0].config.size.name}"]
    )
    reject_duplicate_runs([job.run or name for job, name in zip(found, names, strict=True)])
    total = _format_total(found)
    if len(looks) > 1:
        first = [job for job, overrides in zip(found, jobs, strict=True) if overrides in looks[0]]
        least, most = (lines[0].removeprefix("Total: ") for lines in (_format_total(first), total))
        total = [f"At the first look: {least}", f"At most: {most}", *total[1:]]
    return "\n".join([*_format_table(found, names), "", *total, "", *_describe_comparability(found, names, jobs)])


def _inspect_job(config: TrainConfig, init: "CheckpointInfo | None", finished: list[Summary]) -> _Job:
    from src.runs.summary import build_contract
    from src.runtime.device import open_device  # imports torch

    data = find_prepared(config.data, config.tokenizer, Path(config.output_root).expanduser())
    config, run, status = _resolve_run(config, init, data)
    match, device = match_config(config), open_device(config.runtime)
    cost = model_cost(match.spec, config.training.seq_len)
    speed = _tokens_per_second(match, cost, device.kind, config, finished)
    contract = build_contract(config, data, init, device)
    return _Job(config, match, cost, run, status, contract, sum(stage_tokens(config).values()), speed)


def _resolve_run(
    config: TrainConfig, init: "CheckpointInfo | None", data: PreparedData | None
) -> tuple[TrainConfig, str | None, str]:
    """Return the resolved configuration, the name of the run and its status."""
    if data is None:
        check_machine(config, Path(config.output_root).expanduser())
        return with_search_differences(config, data, init), None, "new"
    plan = make_plan(config, init, data)
    summary = None if config.rerun else read_summary(plan.folder)
    status = "new" if summary is None else "done" if summary["status"] == "done" else "goes on"
    return plan.config, plan.folder.name, status


def _finished_runs(roots: Iterable[Path]) -> Iterable[Summary]:
    """Read the summaries of all finished runs, the newest last; skip damaged ones."""
    files = [file for root in roots for file in root.glob("runs/*/summary.json")]
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns):
        with suppress(UserError):
            summary = read_summary(file.parent)
            if summary and summary["status"] == "done" and summary["final"]:
                yield summary


def _tokens_per_second(
    match: Match, cost: ModelCost, device: str, config: TrainConfig, finished: list[Summary]
) -> float | None:
    best: tuple[int, float] | None = None
    for summary in finished:
        flops = summary["accounting"].get("train_flops_per_token")
        if summary["environment"].get("device") != device or summary["final"] is None or not flops:
            continue
        speed = summary["final"]["tokens_per_second"]
        seq_len = summary["contract"].get("training.seq_len")
        same = summary["model"] == match.spec.to_dict() and seq_len == config.training.seq_len
        similarity = 2 if same else int(summary["architecture"] == config.architecture.name)
        if not same:
            speed *= flops / cost.train_flops_per_token
        if best is None or similarity >= best[0]:
            best = similarity, speed
    return best and best[1]


def _format_table(found: list[_Job], names: list[str]) -> list[str]:
    header = ["job", "status", "solved", "parameters", "active", "tokens", "FLOPs", "memory", "storage", "time"]
    rows = [
        [
            name,
            job.status,
            ", ".join(f"{knob}={value}" for knob, value in job.match.solved.items()) or NOTHING,
            show_count(job.cost.total_params),
            show_count(job.cost.active_non_embedding_params),
            show_count(job.tokens),
            show_flops(job.tokens * job.cost.train_flops_per_token),
            show_bytes(_memory_bytes(job)),
            show_bytes(sum(checkpoint_bytes(job.match.spec)) * len(job.config.stage.stages)),
            show_time(job.time_s),
        ]
        for name, job in zip(names, found, strict=True)
    ]
    return table(header, rows)


def _memory_bytes(job: _Job) -> int:
    resolved = resolve_micro_batch(job.config, job.match.spec, machine_bytes() - PROCESS_BYTES)
    return memory_needed(resolved, job.match.spec).total


def _format_total(found: list[_Job]) -> list[str]:
    left = [job for job in found if job.status != "done"]
    times = [job.time_s for job in left]
    if None in times:
        time = "time unknown: no run is finished here on this kind of device"
    else:
        time = f"about {show_time(sum(time for time in times if time is not None))} one after the other"
    flops = show_flops(sum(job.tokens * job.cost.train_flops_per_token for job in left))
    storage = show_bytes(sum(sum(checkpoint_bytes(job.match.spec)) * len(job.config.stage.stages) for job in left))
    return [
        f"Total: {len(found)} jobs, {len(found) - len(left)} of them done; to do: {flops} FLOPs, {storage}, {time}.",
        "Estimates. Active: parameters used per token, without embeddings. Memory: of training. Storage: two "
        "checkpoints per stage. Nothing was started.",
    ]


def _describe_comparability(found: list[_Job], names: list[str], jobs: list[list[str]]) -> list[str]:
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
