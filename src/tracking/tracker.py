"""One interface to all trackers. metrics.jsonl is authoritative; trackers receive copies."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from src.config.schema import TrackingConfig
from src.runtime.errors import first_line

Row = dict[str, Any]


class Comparison(NamedTuple):
    """What a sweep found."""

    texts: dict[str, str]
    """The answer and the verdicts, as in the terminal."""
    columns: list[str]
    rows: list[list[str]]
    """The table of the report."""
    report: Path
    """Folder of the report."""


class Tracker(Protocol):
    """A destination of metrics. What a method raises disables the tracker."""

    def log(self, row: Row, global_step: int) -> None:
        """Log a row of metrics; `global_step` counts over all stages."""
        ...

    def rewind(self, global_step: int) -> None:
        """Discard rows after a step: the run resumes from there."""
        ...

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        """Log the texts generated after a stage: prompt and text."""
        ...

    def log_comparison(self, comparison: Comparison) -> None:
        """Log what a sweep found, and its report as an artifact where the tracker has them."""
        ...

    def summarize(self, results: Row) -> None:
        """Log the results of the whole run."""
        ...

    def finish(self, exit_code: int) -> None:
        """Close the tracker; exit code 0 marks a finished run."""
        ...


class MultiTracker:
    """Forwards every call to several trackers. After an error in one of them, training continues without it."""

    def __init__(self, trackers: dict[str, Tracker], log_info: Callable[[str], None]) -> None:
        self.trackers = trackers
        self.log_info = log_info

    def log(self, row: Row, global_step: int) -> None:
        self._each(lambda tracker: tracker.log(row, global_step))

    def rewind(self, global_step: int) -> None:
        self._each(lambda tracker: tracker.rewind(global_step))

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        self._each(lambda tracker: tracker.log_samples(stage, samples, global_step))

    def log_comparison(self, comparison: Comparison) -> None:
        self._each(lambda tracker: tracker.log_comparison(comparison))

    def summarize(self, results: Row) -> None:
        self._each(lambda tracker: tracker.summarize(results))

    def finish(self, exit_code: int) -> None:
        self._each(lambda tracker: tracker.finish(exit_code))

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            try:
                action(tracker)
            except Exception as error:  # the errors of their libraries have no common base
                self.log_info(f"{name}: disabled after an error ({first_line(error)})")
                del self.trackers[name]


def build_tracker(
    config: TrackingConfig,
    run_dir: Path,
    settings: Row,
    log_info: Callable[[str], None],
    job_type: str | None = None,
) -> MultiTracker:
    """Open the trackers that `tracking.trackers` names, each with a run named after the run directory.

    A tracker is the module of its name in this package, with a function `start` of these parameters. One that cannot be
    opened is logged and left out. settings: the configuration that they log. job_type: None: the name of the stages.
    """
    opened: dict[str, Tracker] = {}
    job_type = job_type or settings.get("stage", {}).get("name")
    for name in config.trackers:
        try:
            tracker = import_module(f"src.tracking.{name}").start(config, run_dir, settings, log_info, job_type)
        except Exception as error:
            log_info(f"{name}: failed ({first_line(error)})")
        else:
            if tracker is not None:
                opened[name] = tracker
    return MultiTracker(opened, log_info)


def numbers_of(row: Row) -> dict[str, float]:
    """Return the values of a row that are numbers, without its step."""
    return {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}


def flatten(values: Row, prefix: str = "") -> Row:
    """Return nested settings as one dictionary with keys such as `training.seq_len`."""
    flat: Row = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
