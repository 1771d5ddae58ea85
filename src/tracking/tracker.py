"""One interface to all destinations of metrics. metrics.jsonl is the truth; the others are views of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from src.config.schema import TrackingConfig

Row = dict[str, Any]


class Tracker(Protocol):
    """A destination of metrics."""

    def log(self, row: Row, global_step: int) -> None:
        """Take a row of metrics; `global_step` counts over the stages."""
        ...

    def rewind(self, global_step: int) -> None:
        """Forget what lies after a step: the run goes on from there."""
        ...

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        """Take the texts drawn after a stage: prompt and text."""
        ...

    def summarize(self, results: Row) -> None:
        """Take what came of the whole run."""
        ...

    def finish(self, exit_code: int) -> None:
        """Close, with 0 for a run that is done."""
        ...


class MultiTracker:
    """Any number of destinations, each of which gets everything."""

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
    """Open the destinations that `tracking.trackers` names; `settings` describes the run to them."""
    opened = [TRACKERS[name](config, run_dir, settings, log_info) for name in config.trackers]
    return MultiTracker([tracker for tracker in opened if tracker is not None])
