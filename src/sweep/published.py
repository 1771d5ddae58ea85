"""Published results that are checked by runs of our own: `conf/checks` has the experiments and the tolerances.

The experiments are reduced, so that all take minutes on a CPU: a smaller model, vocabulary, length or number of steps
than the authors'. They check the direction of a published result, not its last digit.
"""

from collections.abc import Mapping
from statistics import fmean
from typing import NamedTuple

import pandas as pd

from src.cli.command_line import format_argument
from src.cli.compose import Sweep, compose_config, expand_sweep, register_schema
from src.config.formatting import NOTHING, count_of, table, terminal_width
from src.config.schema import CheckConfig, ExpectedConfig, TrainConfig, UserError, ValidateConfig
from src.reporting.data.json_values import known_values
from src.reporting.data.runs import finished_records


class Result(NamedTuple):
    """What a check found for one architecture."""

    architecture: str
    expected: ExpectedConfig
    accuracies: list[float]
    """Of the test, one for each finished run."""

    @property
    def accuracy(self) -> float | None:
        """The mean over runs; None if there is none."""
        return fmean(self.accuracies) if self.accuracies else None

    @property
    def is_reproduced(self) -> bool:
        return self.accuracy is not None and self.expected.low <= self.accuracy <= self.expected.high

    def show_accuracy(self) -> str:
        """Write the mean, with the range over several runs."""
        if self.accuracy is None:
            return NOTHING
        if len(self.accuracies) == 1:
            return f"{self.accuracy:.3f}"
        return f"{self.accuracy:.3f} ({min(self.accuracies):.3f} to {max(self.accuracies):.3f})"


def plan_checks(config: ValidateConfig) -> dict[str, Sweep]:
    """Return the sweep of each check by name. Raises: UserError naming a check whose settings are wrong."""
    register_schema(TrainConfig, "train")
    seeds = 1 if config.quick else config.seeds
    sweeps: dict[str, Sweep] = {}
    for name, check in config.checks.items():
        if config.quick and not check.is_quick:
            continue
        given = [f"+experiment={check.experiment}", *check.settings, f"seed={','.join(map(str, range(seeds)))}"]
        try:
            sweep = expand_sweep("train", TrainConfig, [*given, format_argument("output_root", config.output_root)])
            compose_config(TrainConfig, "train", sweep.jobs[0])
            sweeps[name] = sweep
        except UserError as error:
            raise UserError(f"checks.{name}: {error}") from None
    if not sweeps:
        raise UserError("checks: none is left to run; give checks.NAME.is_quick=true, or quick=false")
    return sweeps


def judge(check: CheckConfig, runs: pd.DataFrame) -> list[Result]:
    """Compare the test accuracies of a check's runs with what is expected."""
    records = finished_records(runs)
    found: list[Result] = []
    for architecture, expected in check.expected.items():
        own = [record for record in records if record["architecture"] == architecture]
        found.append(Result(architecture, expected, known_values(own, "test_accuracy")))
    return found


def describe_results(checks: Mapping[str, CheckConfig], results: Mapping[str, list[Result]]) -> list[str]:
    """Write a row for each expectation, and below which results are reproduced."""
    rows = [
        [
            name,
            result.architecture,
            result.expected.published,
            f"{result.expected.low:g} to {result.expected.high:g}",
            result.show_accuracy(),
            str(len(result.accuracies)),
            "yes" if result.is_reproduced else "no",
        ]
        for name, found in results.items()
        for result in found
    ]
    header = ["check", "architecture", "published", "expected accuracy", "ours", "seeds", "within tolerance"]
    lines = table(header, rows, ["published", "seeds", "expected accuracy"], terminal_width())
    for name, found in results.items():
        word = "reproduced within tolerance" if all(result.is_reproduced for result in found) else "not reproduced"
        lines.append(f"{name}: {word} ({checks[name].source}; tolerance: {checks[name].tolerance})")
    return lines


def describe_plan(sweeps: Mapping[str, Sweep]) -> list[str]:
    """Write the jobs of each check and their cost, before they start."""
    from src.sweep.dry_run import format_total, inspect_jobs

    lines = [f"{name}: {format_total(inspect_jobs(sweep.jobs))}" for name, sweep in sweeps.items()]
    return [f"Plan: {count_of(len(sweeps), 'check')}. The same command goes on after an interruption.", *lines]
