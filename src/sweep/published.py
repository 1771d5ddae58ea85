"""Published results that are checked by runs of our own: an experiment each, and the accuracies that are expected.

The experiments are reduced, so that all take minutes on a CPU: a smaller model, vocabulary, length or number of steps
than the authors'. They check the direction of a published result, not its last digit.
"""

from statistics import fmean
from typing import NamedTuple

import pandas as pd

from src.config.formatting import NOTHING, table, terminal_width
from src.reporting.data.json_values import known_values
from src.reporting.data.runs import to_records


class Expected(NamedTuple):
    """The test accuracy that a published result says of an architecture, with its tolerance."""

    architecture: str
    """As in a report, with what the sweep varies of it."""
    low: float
    high: float
    published: str


class Check(NamedTuple):
    """A published result and the experiment that checks it."""

    experiment: str
    source: str
    expected: tuple[Expected, ...]


CHECKS = (
    Check(
        "published/parity_small",
        "Grazzi et al., 2024, arXiv 2411.12537",
        (
            Expected("gated_deltanet negative_eigenvalues=False", 0.4, 0.6, "chance (0.5) with eigenvalues in [0, 1]"),
            Expected("gated_deltanet negative_eigenvalues=True", 0.9, 1.0, "solved with eigenvalues in [-1, 1]"),
        ),
    ),
    Check(
        "published/mqar_small",
        "Arora et al., 2023, Zoology, arXiv 2312.04927, figure 2",
        (Expected("dense", 0.95, 1.0, "attention solves it at every width"),),
    ),
)


class Result(NamedTuple):
    """What a check found for one architecture."""

    expected: Expected
    accuracy: float | None
    """Of the test, the mean over finished runs; None if there is none."""

    @property
    def is_reproduced(self) -> bool:
        return self.accuracy is not None and self.expected.low <= self.accuracy <= self.expected.high


def judge(check: Check, runs: pd.DataFrame) -> list[Result]:
    """Compare the test accuracies of a check's runs with what is expected."""
    records = [record for record in to_records(runs) if record["status"] == "done"]
    found: list[Result] = []
    for expected in check.expected:
        own = [record for record in records if record["architecture"] == expected.architecture]
        accuracies = known_values(own, "test_accuracy")
        found.append(Result(expected, fmean(accuracies) if accuracies else None))
    return found


def describe_results(results: dict[Check, list[Result]]) -> list[str]:
    """Write a row for each expectation, and below which results are reproduced."""
    rows = [
        [
            check.experiment.rpartition("/")[2],
            expected.architecture,
            expected.published,
            f"{expected.low:g} to {expected.high:g}",
            NOTHING if accuracy is None else f"{accuracy:.3f}",
            "yes" if result.is_reproduced else "no",
        ]
        for check, found in results.items()
        for result in found
        for expected, accuracy in [result]
    ]
    header = ["experiment", "architecture", "published", "expected accuracy", "ours", "within tolerance"]
    lines = table(header, rows, ["published", "expected accuracy"], terminal_width())
    for check, found in results.items():
        word = "reproduced within tolerance" if all(result.is_reproduced for result in found) else "not reproduced"
        lines.append(f"{check.source}: {word}")
    return lines
