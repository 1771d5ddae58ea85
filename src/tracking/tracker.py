"""One interface to all destinations of metrics. metrics.jsonl is the truth; the others are views of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from src.config import TrackingConfig

Row = dict[str, Any]


class Tracker(Protocol):
    """A destination of metrics."""

    def log(self, row: Row, global_step: int) -> None:
        """Take a row of metrics; `global_step` counts over the stages."""
        ...

    def finish(self, exit_code: int) -> None:
        """Close, with 0 for a run that is done."""
        ...


def _wandb(config: TrackingConfig, run_dir: Path, settings: Row, say: Callable[[str], None]) -> Tracker | None:
    from src.tracking.wandb import start_wandb

    return start_wandb(config, run_dir, settings, say)


def _none(config: TrackingConfig, run_dir: Path, settings: Row, say: Callable[[str], None]) -> None:
    return None


TRACKERS: dict[str, Callable[[TrackingConfig, Path, Row, Callable[[str], None]], Tracker | None]] = {
    "wandb": _wandb,
    "none": _none,
}


def build_tracker(config: TrackingConfig, run_dir: Path, settings: Row, say: Callable[[str], None]) -> Tracker | None:
    """Open the destination that `tracking` names, if any; `settings` describes the run to it."""
    return TRACKERS[config.name](config, run_dir, settings, say)
