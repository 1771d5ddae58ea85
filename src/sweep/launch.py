"""Run a sweep: check all jobs, run each in a child process of Hydra's launcher, write the report."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from src.cli.command_line import SINGLE_RUN, explain_hydra_error, quote_value
from src.cli.compose import Sweep
from src.cli.next_command import print_next
from src.config.formatting import count_of
from src.config.schema import CONF, LauncherConfig, SweepConfig, TrainConfig, UserError
from src.model.cost.model_cost import model_cost
from src.model.size_matching import match_config
from src.reporting import answer_lines, comparison_text, load_runs, verdict_lines, write_report
from src.reporting.data.runs import to_records
from src.reporting.statistics.sequential import LOOKS
from src.reporting.statistics.verdicts import is_decided
from src.reporting.tables.comparison import comparison_table
from src.runs.planning import Plan, plan_runs, reject_duplicate_runs
from src.runs.run_id import short_hash
from src.runs.tuned_learning_rates import load_searches, write_searches
from src.runtime.atomic_files import file_lock, reject_symlinks
from src.runtime.errors import first_line
from src.runtime.signals import stop_signal
from src.sweep.gpu_pool import open_gpu_pool
from src.sweep.job_process import join_job, run_job
from src.sweep.job_resources import find_resources, node_rank, slurm_overrides
from src.sweep.job_store import Job, JobStore
from src.sweep.next_steps import sweep_commands
from src.sweep.progress_table import show_jobs
from src.sweep.report_refresh import refresh_report
from src.training.stage_budget import shared_tokens, stage_tokens

Describe = Callable[[Path, Path], str]
"""What to print at the end of a sweep, from its folder and the file of its report."""


def run_sweep(sweeps: Sequence[Sweep], describe: Describe | None = None) -> int:
    """Run the jobs of a sweep that are not done, write the report, and return 0 only if every job is done.

    sweeps: one per look of `seeds=auto`, otherwise one; later looks run only until the report is decided.
    describe: replaces the comparison, the path of the report and the next commands.

    Raises:
        UserError: a job's configuration is invalid, or the same sweep is already running; nothing was started.
    """
    folder = None
    for look, sweep in enumerate(sweeps):
        plans = plan_runs(sweep.jobs)
        open_gpu_pool(plans[0].config.launcher, plans[0].config.runtime.device, Path())  # missing GPUs are an error now
        folder = folder or _sweep_folder(plans)  # further looks belong to the same sweep
        exit_code = _run_look(sweep, plans, folder, look if len(sweeps) > 1 else None, describe)
        if exit_code or look + 1 == len(sweeps) or is_decided(load_runs(folder), plans[0].config.verdict.margin):
            if exit_code < 128:  # not stopped
                track_comparison(plans[0].config, folder)
            if not exit_code and not describe:
                runs = to_records(load_runs(folder))
                print_next(sweep_commands(folder, sweep, [plan.config for plan in plans], runs))
            return exit_code
        print(f"Not decided with {LOOKS[look]} seeds; going on to {LOOKS[look + 1]}")
    return 0


def track_comparison(config: TrainConfig, folder: Path) -> None:
    """Log answer, table and report of a sweep to each tracker, as a run of its own in the group of the sweep's runs."""
    if not config.tracking.trackers:
        return
    from src.tracking.tracker import Comparison, build_tracker

    runs, log_info = load_runs(folder), partial(print, file=sys.stderr)
    table, margin = comparison_table(runs), config.verdict.margin
    columns = [" ".join(filter(None, (column.group, column.name))) for column in table.columns]
    texts = {"answer": "\n".join(answer_lines(runs, margin)), "verdict": "\n".join(verdict_lines(runs, margin))}
    settings = {"sweep": folder.name, "runs": len(runs)}
    tracking = replace(config.tracking, group=folder.name)
    tracker = build_tracker(tracking, folder, settings, log_info, job_type="comparison")
    tracker.log_comparison(Comparison(texts, columns, table.rows, folder / "report"))
    tracker.finish(0)


def _run_look(sweep: Sweep, plans: list[Plan], folder: Path, look: int | None, describe: Describe | None) -> int:
    config = plans[0].config
    with open_sweep(folder, config.sweep_name, plans, sweep.jobs, look) as store:
        if config.learning_rates:
            write_searches(folder, load_searches(config.learning_rates))
        exit_code = launch(sweep, config, store)
        states = store.states()
        report = write_report(folder, margin=config.verdict.margin)
        print(describe(folder, report) if describe else comparison_text(load_runs(folder), config.verdict.margin))
        unfinished = [run for run, state in states.items() if state != "done"]
        if unfinished:
            print(f"{len(unfinished)} of {len(states)} jobs not done; the same command goes on with them")
        if not describe:
            print(f"Report: {report}")
    return exit_code or (1 if unfinished else 0)


@contextmanager
def open_sweep(
    folder: Path, name: str, plans: list[Plan], jobs: list[list[str]], look: int | None = None
) -> Iterator[JobStore]:
    """Lock the folder of a sweep and write its records. Raises: UserError if another process holds the lock.

    look: index of the look of `seeds=auto`, from 0.
    """
    store = JobStore(folder)
    with file_lock(folder / ".lock", f"{folder}: this sweep is already running in another process"):
        reject_symlinks(folder, ".submitit", "wandb")  # written by the Slurm launcher and by W&B
        store.open(name, [_job(plan, job, folder) for plan, job in zip(plans, jobs, strict=True)], look)
        print(f"Sweep: {count_of(len(plans), 'job')}, {folder}")
        print(f"Live page: python -m src.report {shlex.quote(f'dir={folder}')} serve=true")
        yield store


def _sweep_folder(plans: list[Plan]) -> Path:
    first = plans[0].config
    names = [plan.folder.name for plan in plans]
    reject_duplicate_runs(names)
    return Path(first.output_root).expanduser() / "sweeps" / f"{first.sweep_name}-{short_hash(names)}"


def _job(plan: Plan, overrides: list[str], folder: Path) -> Job:
    config = plan.config
    extra = [SINGLE_RUN, f"tracking.group={folder.name}"]
    extra += [f"data.dir={quote_value(plan.config.data.dir)}"] if plan.config.data.dir is not None else []
    cost = model_cost(match_config(config).spec, config.training.seq_len)
    return Job(
        run=plan.folder.name,
        run_dir=os.path.relpath(plan.folder, folder),
        overrides=[*overrides, *extra],
        architecture=config.architecture.name,
        size=config.size.name,
        recipe=config.recipe.name,
        stage=config.stage.name,
        data=config.data.name,
        seed=config.seed,
        stage_tokens=stage_tokens(config),
        shared_tokens=shared_tokens(config),
        flops_per_token=cost.train_flops_per_token,
        active_non_embedding_params=cost.active_non_embedding_params,
    )


def launch(sweep: Sweep, config: TrainConfig, store: JobStore) -> int:
    """Start every job by the launcher; return 0, or 128 + the signal that stopped the sweep."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting
    live = sys.stdout.isatty() if config.sweep.live is None else config.sweep.live
    overrides = [item for item in sweep.overrides if not item.startswith("sweep.live=")]
    ours = [
        "hydra.sweeper.params=null",
        f"hydra.sweep.dir={quote_value(str(store.folder.resolve()))}",
        f"sweep.live={live}",
        *slurm_overrides(config.launcher),
    ]
    before, sys.argv = sys.argv, ["src.train", "-m", *overrides, *ours]
    try:
        with refresh_report(store, config.verdict.margin), show_jobs(store) if live else nullcontext():
            if config.launcher.name == "ray":
                from src.sweep.ray_launcher import launch_on_ray

                return launch_on_ray(store, config)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(launch_job)()
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return int(stop.code or 0)
    except (HydraException, OmegaConfBaseException, ImportError) as error:
        raise UserError(explain_hydra_error(error, sweep.overrides, [])) from None
    except Exception as error:
        if isinstance(error, UserError) or config.launcher.name != "slurm":
            raise
        # A job was cancelled or its node failed; Slurm continues the others.
        print(f"Slurm: a job ended without a result ({first_line(error)}); the same command waits for the others")
    finally:
        sys.argv = before
    return 0


def launch_job(config: DictConfig) -> None:
    """Run the job of Hydra's launcher in a child process.

    A failed job is recorded and the sweep continues; a stopped job ends the sweep. On the further hosts of a job, only
    their processes are run.
    """
    settings = HydraConfig.get()
    store = JobStore(Path(settings.sweep.dir))
    jobs, index = store.jobs(), int(settings.job.num)
    if config.sweep.fail_fast and store.has_failed():
        return
    if not config.sweep.live:
        print(f"[{index + 1}/{len(jobs)}] {jobs[index].run}", flush=True)
    launcher = LauncherConfig(**config.launcher)
    resources = find_resources(launcher, config.runtime.device, store.folder)
    run = join_job if node_rank(launcher) else run_job
    exit_code = run(store, jobs[index], SweepConfig(**config.sweep), bool(config.rerun), resources)
    if number := stop_signal(exit_code):
        raise SystemExit(128 + number)
