"""Search the learning rate of each architecture of a size, with equal budgets and seeds that no comparison uses.

Every architecture is tried with the same number of rates and each rate with the same seeds. The criterion is
validation bits per byte (of a task: its validation loss), averaged over stages and seeds. If the best rate of any
architecture is at the edge of the range, the range is extended for all of them. A trial is an ordinary run: repeated
commands resume it or skip it.

    tuning/<size>-<hash>/  sweep.json  jobs/  learning_rates.json  report/  (optuna.db, with method=tpe)
"""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from src.cli.command_line import given_keys
from src.cli.compose import Sweep, compose_config, expand_sweep
from src.cli.next_command import print_next
from src.cli.validation import check_installed
from src.config.checks import check_settings
from src.config.formatting import count_of
from src.config.schema import TrainConfig, TuneConfig, TuneSettings, UserError
from src.reporting import write_report
from src.runs.contract import training_contract
from src.runs.planning import Plan, check_jobs, plan_runs
from src.runs.run_id import short_hash
from src.runs.summary import read_summary
from src.runs.tuned_learning_rates import FILE, write_searches
from src.runtime.errors import first_line
from src.sweep.job_process import run_job
from src.sweep.job_resources import find_resources
from src.sweep.job_store import JobStore
from src.sweep.launch import launch, open_sweep
from src.sweep.next_steps import comparison_command, comparison_seconds
from src.sweep.search_results import Trial, Trials, find_edge, format_results, to_record
from src.training.stage_budget import stage_tokens

MAX_SPAN = 1e30
"""Largest factor from the center of the grid to its ends, extensions included: the range of fp32."""
TPE_HALF_RANGE = 2.0
"""Factors on either side of the center in the first range of method=tpe, as in a grid of five."""


TRIAL_OVERRIDES = ("optimizer.search=trial", "evaluation.enabled=false", "sweep.skip_diverged=true")


class Unfinished(Exception):
    """A trial has failed for another reason than divergence, or the search was stopped."""

    def __init__(self, exit_code: int, line: str) -> None:
        super().__init__(line)
        self.exit_code = exit_code


class SizeSearch(NamedTuple):
    """The search of one size, as the command line gives it."""

    size: str
    base: list[str]
    """The overrides of all trials, without rates and seeds."""
    center: float
    architectures: list[str]


def plan_searches(overrides: list[str]) -> tuple[TuneConfig, list[SizeSearch]]:
    """Return the configuration and the search of every size on the command line.

    Raises: UserError for invalid settings, or several values of settings other than architecture and size.
    """
    config = compose_config(TuneConfig, "tune", expand_sweep("tune", TuneConfig, overrides).jobs[0])
    check_settings(config)
    _check_settings(config.tune, given_keys(overrides))
    base = [item for item in overrides if not item.startswith("tune.")]
    sweep = expand_sweep("train", TrainConfig, [*base, "seed=0"])
    configs = [compose_config(TrainConfig, "train", job) for job in sweep.jobs]
    names = [(config.architecture.name, config.size.name) for config in configs]
    if len(set(names)) < len(names):
        raise UserError("tune: finds one rate per architecture and size; give one value of every other setting")
    check_jobs(sweep.jobs)  # all sizes, before the first search
    own = [item for item in sweep.overrides if given_keys([item]) - {"size", "seed", "dry_run"}]
    return config, [
        SizeSearch(
            size,
            [*own, f"size={size}", *TRIAL_OVERRIDES],
            next(config.size.learning_rate for config in configs if config.size.name == size),
            [architecture for architecture, other in names if other == size],
        )
        for size in dict.fromkeys(size for _, size in names)
    ]


def tune(settings: TuneSettings, searches: Sequence[SizeSearch], overrides: Sequence[str]) -> int:
    """Search for every size, and return the exit status: 0 if all rates were found. Raises: UserError.

    overrides: those of the command line, for the command that compares by the rates.
    """
    folders: list[Path] = []
    for search in searches:
        try:
            folders.append(_search(search.base, search.size, search.center, settings))
        except Unfinished as unfinished:
            print(f"Not finished: {unfinished}; the same command goes on with it")
            return unfinished.exit_code
    print_next([comparison_command(overrides, folders, settings.seeds)], comparison_seconds(folders))
    return 0


def _check_settings(settings: TuneSettings, given: set[str]) -> None:
    """Check the settings of the search. Raises: UserError."""
    for key in ("optimizer.learning_rate", "seed", "seeds", "learning_rates"):
        if key in given:
            raise UserError(f"{key}: is chosen by tune (its seeds are tune.seeds); leave it out")
    if settings.warmup and "schedule.warmup_steps" in given:
        raise UserError("schedule.warmup_steps: is chosen by tune from tune.warmup; leave one out")
    if len(set(settings.warmup)) < len(settings.warmup):
        raise UserError(f"tune.warmup={settings.warmup}: give different numbers of steps")
    reach = settings.trials // 2 + settings.extensions
    if reach * math.log(settings.factor) > math.log(MAX_SPAN):
        raise UserError(
            f"tune.factor={settings.factor}: too large for tune.trials={settings.trials} and "
            f"tune.extensions={settings.extensions}, with which the rates span {reach} factors to either side"
        )
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise UserError(f"tune.seeds={settings.seeds}: give one or more different seeds")
    if settings.method == "tpe":
        check_installed("tune.method=tpe", "optuna", "tune")


def _search(base: list[str], size: str, center: float, settings: TuneSettings) -> Path:
    """Search for the architectures of one size, and return the folder. Raises: Unfinished, UserError."""
    seeds = f"seed={','.join(map(str, settings.seeds))}"
    plans = plan_runs(expand_sweep("train", TrainConfig, [*base, f"seed={settings.seeds[0]}"]).jobs)
    config = plans[0].config
    about: list[Any] = [[plan.folder.name for plan in plans], settings.method, settings.factor, settings.seeds]
    about += [settings.trials, settings.warmup]
    folder = Path(config.output_root).expanduser() / "tuning" / f"{size}-{short_hash(about)}"
    architectures = [plan.config.architecture.name for plan in plans]
    method = _search_grid if settings.method == "grid" else _search_tpe
    trials = method(_Search(folder, base, seeds, architectures, center, settings))
    n = {len(tried) for tried in trials.values()}
    assert len(n) == 1, "equal budgets"
    rates = {name: to_record(tried) for name, tried in trials.items()}
    budget = f"{sum(stage_tokens(config).values()):,} tokens each"
    tried = f"{n.pop() // max(1, len(settings.warmup))} rates"
    if settings.warmup:
        tried += f" x {len(settings.warmup)} warm-ups"
    text = f"{settings.method}, {tried}, {count_of(len(settings.seeds), 'seed')}, {budget}"
    unit = "nats per answer" if config.data.is_task else "bits per byte"
    found = {"size": size, "unit": unit, "optimizer": config.optimizer.name, "text": f"{text} ({folder.name})"}
    contract = training_contract(config, plans[0].data, plans[0].init)
    write_searches(folder, [{**found, "seeds": settings.seeds, "contract": contract, "rates": rates}])
    print("\n".join(format_results(rates, size, unit)))
    print(f"Report: {write_report(folder)}")
    print(f"Learning rates: {folder / FILE}")
    return folder


class _Search(NamedTuple):
    """The search of one size."""

    folder: Path
    base: list[str]
    seeds: str
    architectures: list[str]
    center: float
    settings: TuneSettings

    def warmup_override(self) -> list[str]:
        """Return the override with every warm-up; empty if the warm-up is not searched."""
        return [f"schedule.warmup_steps={','.join(map(str, self.settings.warmup))}"] if self.settings.warmup else []

    def run(self, overrides: list[str]) -> list[Plan]:
        """Run the jobs of these overrides in subprocesses. Raises: Unfinished if one is not done."""
        sweep = expand_sweep("train", TrainConfig, [*self.base, *overrides, self.seeds])
        plans = plan_runs(sweep.jobs)
        with open_sweep(self.folder, "tuning", plans, sweep.jobs) as store:
            if self.settings.method == "grid":
                exit_code = launch(sweep, plans[0].config, store)
            else:
                exit_code = _run_one_by_one(store, plans, sweep)
            if exit_code:
                raise Unfinished(exit_code, "stopped")
            for job in store.jobs():
                if store.status(job) != "done" and not store.has_diverged(job):
                    raise Unfinished(1, f"{job.run} has {store.status(job)}: {store.error(job)}")
        return plans


def _run_one_by_one(store: JobStore, plans: list[Plan], sweep: Sweep) -> int:
    config = plans[0].config
    resources = find_resources(config.launcher, config.runtime.device, store.folder)
    for job in store.jobs():
        code = run_job(store, job, config.sweep, resources=resources)
        if code > 128:
            return code
    return 0


def first_exponents(settings: TuneSettings) -> list[int]:
    """Return the exponents of the grid before it is extended."""
    low = -(settings.trials // 2)
    return list(range(low, low + settings.trials))


def grid_rates(center: float, settings: TuneSettings, exponents: Sequence[int]) -> list[float]:
    """Return the rates of a grid."""
    return [_round_rate(center * settings.factor**exponent) for exponent in exponents]


def _search_grid(search: _Search) -> Trials:
    """Try the points of a grid, and extend it while the best of any architecture is at the edge."""
    n, exponents = search.settings.trials, first_exponents(search.settings)
    for _ in range(1 + search.settings.extensions):
        rates = grid_rates(search.center, search.settings, exponents)
        plans = search.run([f"optimizer.learning_rate={','.join(map(repr, rates))}", *search.warmup_override()])
        points = [(rate, warmup) for rate in rates for warmup in search.settings.warmup or [None]]
        trials = {
            name: [Trial(rate, _mean_loss(plans, name, rate, warmup), warmup) for rate, warmup in points]
            for name in search.architectures
        }
        edges = {find_edge(tried) for tried in trials.values()} - {None}
        if not edges or len(exponents) == n + search.settings.extensions:
            break
        exponents = [
            *([exponents[0] - 1] if "low" in edges else []),
            *exponents,
            *([exponents[-1] + 1] if "high" in edges else []),
        ]
    return trials


def _open_study(name: str, file: Path) -> Any:
    """Open the study of an architecture with its earlier trials. Raises: UserError if the file is damaged."""
    import optuna

    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=3)
    try:
        return optuna.create_study(study_name=name, storage=f"sqlite:///{file}", sampler=sampler, load_if_exists=True)
    except Exception as error:  # classes of SQLAlchemy and Alembic, outside Optuna's interface
        raise UserError(
            f"{file}: not a study of Optuna ({first_line(error)}); remove it to start the search again"
        ) from None


def _search_tpe(search: _Search) -> Trials:
    """Search by Optuna's tree-structured Parzen estimator (Bergstra et al., 2011), one study per architecture."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search.folder.mkdir(parents=True, exist_ok=True)
    factor = search.settings.factor
    low, high = search.center / factor**TPE_HALF_RANGE, search.center * factor**TPE_HALF_RANGE
    n, trials = search.settings.trials, Trials()
    for extension in range(1 + search.settings.extensions):
        for name in search.architectures:
            study = _open_study(name, search.folder / "optuna.db")
            trials[name] = _run_tpe_trials(study, search, name, n, (low, high))
        edges = {find_edge(tried, low * factor**0.5, high / factor**0.5) for tried in trials.values()} - {None}
        if not edges or extension == search.settings.extensions:
            break
        low, high = (low / factor if "low" in edges else low), (high * factor if "high" in edges else high)
        n += 2
    return trials


def _run_tpe_trials(study: Any, search: _Search, name: str, n: int, span: tuple[float, float]) -> list[Trial]:
    """Run a study up to n trials; an unfinished one of an earlier command comes first."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.trial import TrialState

    space: dict[str, Any] = {"learning_rate": FloatDistribution(*span, log=True)}
    if search.settings.warmup:
        space["warmup_steps"] = CategoricalDistribution(search.settings.warmup)

    while len(completed := study.get_trials(states=(TrialState.COMPLETE,))) < n:
        open_trials = study.get_trials(states=(TrialState.RUNNING,))
        if open_trials:
            number, values = open_trials[0].number, open_trials[0].params
        else:
            new_trial = study.ask(space)
            number, values = new_trial.number, new_trial.params
        rate, warmup = _round_rate(values["learning_rate"]), values.get("warmup_steps")
        overrides = [f"architecture={name}", f"optimizer.learning_rate={rate!r}"]
        plans = search.run([*overrides, *([] if warmup is None else [f"schedule.warmup_steps={warmup}"])])
        study.tell(number, min(_mean_loss(plans, name, rate, warmup), 1e6))
    found = [
        Trial(_round_rate(one.params["learning_rate"]), one.value, one.params.get("warmup_steps")) for one in completed
    ]
    return sorted(found, key=lambda trial: trial.learning_rate)


def _round_rate(rate: float) -> float:
    """Round a rate to three significant digits."""
    return float(f"{rate:.3g}")


def _mean_loss(plans: Sequence[Plan], architecture: str, rate: float, warmup: int | None) -> float:
    """Return the mean loss of a rate and warm-up over seeds and stages; infinite if one has diverged."""
    losses: list[float] = []
    for plan in plans:
        config = plan.config
        found = config.architecture.name, config.optimizer.learning_rate, config.schedule.warmup_steps
        if found[:2] == (architecture, rate) and warmup in (None, found[2]):
            summary = read_summary(plan.folder)
            stages = summary["stages"] if summary else {}
            keys = ("val_loss" if "val_accuracy" in stage else "val_bits_per_byte" for stage in stages.values())
            found = [stage[key] for key, stage in zip(keys, stages.values(), strict=True)]
            known = [loss for loss in found if loss is not None]
            losses.append(fmean(known) if len(known) == len(plan.config.stage.stages) else math.inf)
    return fmean(losses)
