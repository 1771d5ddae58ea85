"""One interface to all trackers. metrics.jsonl is authoritative; trackers receive copies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from src.config.schema import TrackingConfig

Row = dict[str, Any]


class Tracker(Protocol):
    """A destination of metrics."""

    def log(self, row: Row, global_step: int) -> None:
        """Log a row of metrics; `global_step` counts over all stages."""
        ...

    def rewind(self, global_step: int) -> None:
        """Discard rows after a step: the run resumes from there."""
        ...

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        """Log the texts generated after a stage: prompt and text."""
        ...

    def summarize(self, results: Row) -> None:
        """Log the results of the whole run."""
        ...

    def finish(self, exit_code: int) -> None:
        """Close the tracker; exit code 0 marks a finished run."""
        ...


class MultiTracker:
    """Forwards every call to several trackers."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers

    def log(self, row: Row, global_step: int) -> None:
        for tracker in self.trackers:
            tracker.log(row, global_step)

    def rewind(self, global_step: int) -> None:
        for tracker in self.trackers:
            tracker.rewind(global_step)

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        for tracker in self.trackers:
            tracker.log_samples(stage, samples, global_step)

    def summarize(self, results: Row) -> None:
        for tracker in self.trackers:
            tracker.summarize(results)

    def finish(self, exit_code: int) -> None:
        for tracker in self.trackers:
            tracker.finish(exit_code)


def _wandb(config: TrackingConfig, run_dir: Path, settings: Row, log_info: Callable[[str], None]) -> Tracker | None:
    from src.tracking.wandb import start_wandb

    return start_wandb(config, run_dir, settings, log_info)


def _tensorboard(
    config: TrackingConfig, run_dir: Path, settings: Row, log_info: Callable[[str], None]
) -> Tracker | None:
    from src.tracking.tensorboard import start_tensorboard

    return start_tensorboard(run_dir, settings, log_info)


TRACKERS: dict[str, Callable[[TrackingConfig, Path, Row, Callable[[str], None]], Tracker | None]] = {
    "wandb": _wandb,
    "tensorboard": _tensorboard,
}


def build_tracker(
    config: TrackingConfig, run_dir: Path, settings: Row, log_info: Callable[[str], None]
) -> MultiTracker:
    """Open the trackers that `tracking.trackers` names; `settings` is the configuration that they log."""
    opened = [TRACKERS[name](config, run_dir, settings, log_info) for name in config.trackers]
    return MultiTracker([tracker for tracker in opened if tracker is not None])
