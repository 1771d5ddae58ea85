"""`python -m src.train architecture=moe size=large`: train one run, or a sweep with `-m`."""

import sys
from typing import TYPE_CHECKING

from src.cli.command import run_cli
from src.cli.command_line import (
    SINGLE_RUN,
    comma_hint,
    format_argument,
    given_keys,
    has_hydra_flag,
    parse_arguments,
    quote_paths,
)
from src.cli.compose import Sweep, compose_config, expand_sweep, register_schema
from src.cli.data_path import expand_data_path
from src.cli.help import show_hydra_help
from src.config.schema import TrainConfig, UserError
from src.runtime.distributed import ProcessGroup, RankFailure, RankZeroFailed, open_process_group, reject_torchrun

if TYPE_CHECKING:
    from src.runs.planning import Plan


def main(argv: list[str]) -> int:
    """Train, and return the exit status: 0 done, 1 failed, 2 invalid input, 128 + n stopped by signal n."""
    argv = expand_data_path(quote_paths(argv))
    register_schema(TrainConfig, "train")
    arguments = parse_arguments(argv)
    if has_hydra_flag(arguments):
        show_hydra_help("train", argv, arguments.overrides)
        return 0
    sweep = expand_sweep("train", TrainConfig, arguments.overrides)
    is_sweep = arguments.multirun or sweep.is_from_experiment
    if len(sweep.jobs) > 1 and not is_sweep:
        several = next(item for item in arguments.overrides if not any(item in job for job in sweep.jobs))
        raise UserError(f"{several}: several values make a sweep; add -m{comma_hint(several)}")
    if not is_sweep:
        check_single_run(arguments.overrides)
    config = compose_config(TrainConfig, "train", sweep.jobs[0])
    is_job = SINGLE_RUN in arguments.overrides
    looks = None if is_job or config.seeds is None else expand_looks(arguments.overrides, config.seeds, is_sweep)
    sweeps = looks or [sweep]
    if config.dry_run:
        from src.sweep.dry_run import describe_dry_run

        print(describe_dry_run([each.jobs for each in sweeps]))
        return 0
    if is_sweep:
        reject_torchrun("a sweep starts the processes of each job (launcher.processes_per_job=2)")
        from src.sweep.launch import run_sweep

        return run_sweep(sweeps)
    return train(arguments.overrides)


def expand_looks(overrides: list[str], seeds: str, is_sweep: bool) -> list[Sweep]:
    """Return the sweep at each look of `seeds=auto`. Raises: UserError if a setting contradicts it."""
    from src.reporting.statistics.sequential import LOOKS

    if seeds != "auto":
        raise UserError(f"seeds={seeds}: must be auto; for seeds of your choice give seed=0,1,2")
    if not is_sweep:
        raise UserError("seeds=auto: is for sweeps; add -m")
    if "seed" in given_keys(overrides):
        raise UserError("seeds=auto: chooses the seeds; leave out seed")
    return [expand_sweep("train", TrainConfig, [*overrides, f"seed={','.join(map(str, range(n)))}"]) for n in LOOKS]


def check_single_run(overrides: list[str]) -> None:
    """Check that a single run has no settings of sweeps. Raises: UserError."""
    if SINGLE_RUN in overrides:  # a job of a sweep
        return
    for override in overrides:
        (key,) = given_keys([override])
        if key in ("launcher", "sweep_name") or key.startswith(("launcher.", "sweep.", "hydra.")):
            raise UserError(f"{override}: is for sweeps; add -m, or leave it out")


def train(overrides: list[str]) -> int:
    """Train or resume one run; under torchrun together with the other processes."""
    with open_process_group() as process_group:
        try:
            return _train(overrides, process_group)
        except RankZeroFailed:
            return 2
        except RankFailure as failure:
            print(f"error: {failure}", file=sys.stderr)
            return 1


def _train(overrides: list[str], process_group: ProcessGroup) -> int:
    from src.runs.planning import find_run_of_other_length, plan_runs

    plan = process_group.rank_zero_first(lambda: plan_runs([overrides])[0])
    from src.runs.runner import execute_run, is_done
    from src.runtime.run_lock import remove_run
    from src.runtime.signals import Interrupted

    log_info = print if process_group.is_rank_zero else lambda *_, **__: None
    if process_group.broadcast(is_done(plan.folder)) and not plan.config.rerun:
        log_info(f"Done already (rerun=true starts over): {plan.folder}")
        _print_next(plan, overrides, process_group)
        return 0
    if process_group.is_rank_zero and not plan.folder.exists() and (other := find_run_of_other_length(plan)):
        log_info(
            f"Another length of {other}, which is finished: this run starts from scratch, since its schedule differs. "
            f"To continue from those weights: {format_argument('init_from', str(other))}"
        )
    if plan.config.rerun and process_group.is_rank_zero:
        remove_run(plan.folder)
    try:
        summary = execute_run(plan.config, plan.data, plan.folder, plan.init, process_group)
    except Interrupted as interrupted:
        command = "the same command without rerun=true" if plan.config.rerun else "the same command"
        log_info(f"Stopped by {interrupted}; {command} goes on: {plan.folder}", file=sys.stderr)
        return interrupted.exit_code
    if summary["final"] and summary["final"]["val_loss"] is None:
        log_info("Validation loss is not a number: training has diverged; try a smaller optimizer.learning_rate")
    log_info(f"Run: {plan.folder}")
    _print_next(plan, overrides, process_group)
    return 0


def _print_next(plan: "Plan", overrides: list[str], process_group: ProcessGroup) -> None:
    """Print the commands that use the run, unless it is a job of a sweep."""
    from src.cli.next_command import print_next
    from src.sweep.next_steps import run_commands

    if process_group.is_rank_zero and SINGLE_RUN not in overrides:
        print_next(run_commands(plan.folder, plan.config))


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
