"""The dry run of a search (`python -m src.tune dry_run=true`): its trials, their cost, and what is missing."""

from collections.abc import Sequence

from src.cli.compose import expand_sweep
from src.config.formatting import (
    count_of,
    fit_text,
    show_bytes,
    show_count,
    show_flops,
    show_time,
    table,
    terminal_width,
)
from src.config.schema import TrainConfig, TuneSettings
from src.sweep.dry_run import PlannedJob, inspect_jobs, missing_lines, time_notes
from src.sweep.learning_rate_search import SizeSearch, first_exponents, grid_rates

DROPPED = ("memory", "FLOPs", "tokens each", "done")
"""The columns that a narrow terminal leaves out, in this order."""


def describe_searches(settings: TuneSettings, searches: Sequence[SizeSearch]) -> str:
    """Describe the trials before any is started. Raises: UserError as the command itself."""
    rows: list[list[str]] = []
    every: list[PlannedJob] = []
    least = most = 0.0
    is_known = True
    for search in searches:
        trials = _inspect_trials(settings, search)
        every += trials
        for name in search.architectures:
            own = [job for job in trials if job.config.architecture.name == name]
            seconds = [job.time_s for job in own if job.status != "done"]
            extension = len(own) / settings.trials * 2 * settings.extensions  # at most one rate at each end
            first = own[0]
            times = ["unknown", "unknown"]
            if None in seconds:
                is_known = False
                flops = every[0].flops
                times = [f"{len(seconds) * first.flops / flops:.1f}x", f"{extension * first.flops / flops:.1f}x"]
            elif first.time_s is not None:
                total, further = sum(one for one in seconds if one is not None), extension * first.time_s
                least, most = least + total, most + total + further
                times = [first.show_seconds(total), first.show_seconds(further)]
            rows.append(
                [
                    f"{name} {search.size}",
                    f"{len(own):,}",
                    f"{sum(job.status == 'done' for job in own):,}",
                    show_count(first.tokens),
                    show_flops(sum(job.flops for job in own if job.status != "done")),
                    show_bytes(first.memory_bytes),
                    times[0],
                    f"+{extension:.0f}",
                    f"+{times[1]}",
                ]
            )
    header = ["search", "trials", "done", "tokens each", "FLOPs", "memory", "time", "at most", "more time"]
    total = f"about {show_time(least)}, at most {show_time(most)}" if is_known else "time unknown"
    missing = missing_lines(every)
    return fit_text(
        [
            *table(header, rows, DROPPED, terminal_width()),
            "",
            f"Total: {count_of(len(every), 'trial')}, one after the other: {total}.",
            *time_notes(every),
            "At most: what tune.extensions adds while a best rate is at the edge of the range, for all architectures. "
            "Estimates, of training alone. Nothing was started.",
            *(["", "Missing", *(f"  {line}" for line in missing)] if missing else []),
            "",
            *map(coverage_line, searches),
        ],
        terminal_width(),
    )


def coverage_line(search: SizeSearch) -> str:
    """Say what a comparison by these rates can have."""
    return (
        f"Size {search.size}: rates for {', '.join(search.architectures)} alone. A comparison by them refuses other "
        "architectures, and its report names other data, stages, budgets and batches."
    )


def _inspect_trials(settings: TuneSettings, search: SizeSearch) -> list[PlannedJob]:
    """Return the trials of the first range; those of method=tpe are chosen later, so they stand at the center."""
    seeds = f"seed={','.join(map(str, settings.seeds))}"
    warmup = [f"schedule.warmup_steps={','.join(map(str, settings.warmup))}"] if settings.warmup else []
    if settings.method == "grid":
        rates = grid_rates(search.center, settings, first_exponents(settings))
        swept = [f"optimizer.learning_rate={','.join(map(repr, rates))}", *warmup]
        return inspect_jobs(expand_sweep("train", TrainConfig, [*search.base, *swept, seeds]).jobs)
    swept = [f"optimizer.learning_rate={search.center!r}"]
    return inspect_jobs(expand_sweep("train", TrainConfig, [*search.base, *swept, seeds]).jobs) * settings.trials
