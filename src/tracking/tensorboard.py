"""TensorBoard: event files in the run directory (`tensorboard --logdir outputs/runs`). Extra [tensorboard]."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.config.schema import TrackingConfig
from src.tracking.tracker import Comparison, flatten, numbers_of

FOLDER = "tensorboard"


class TensorboardTracker:
    """Event files of one run; a rewind starts a new file, which replaces the repeated steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: Any = None

    def _open(self, purge_step: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        if self.writer is None or purge_step is not None:
            if self.writer is not None:
                self.writer.close()
            self.writer = SummaryWriter(str(self.folder), purge_step=purge_step)
        return self.writer

    def log(self, row: dict[str, Any], global_step: int) -> None:
        writer = self._open()
        for name, value in numbers_of(row).items():
            writer.add_scalar(name, value, global_step)
        writer.flush()

    def rewind(self, global_step: int) -> None:
        self._open(purge_step=global_step + 1)

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        for number, sample in enumerate(samples):
            self.log_text(f"samples/{stage}/{number}", sample["text"], global_step)

    def log_text(self, name: str, text: str, global_step: int | None = None) -> None:
        """Log a text that is shown verbatim, which Markdown does with indented lines."""
        self._open().add_text(name, "\n".join(f"    {line}" for line in text.split("\n")), global_step)

    def log_comparison(self, comparison: Comparison) -> None:
        for name, text in comparison.texts.items():
            self.log_text(name, text)
        lines = [comparison.columns, ["---"] * len(comparison.columns), *comparison.rows]
        self._open().add_text("comparison", "\n".join(f"| {' | '.join(cells)} |" for cells in lines))

    def summarize(self, results: dict[str, Any]) -> None:
        self.log_text("summary", "\n".join(f"{name}: {value:g}" for name, value in numbers_of(results).items()))

    def finish(self, exit_code: int) -> None:
        if self.writer is not None:
            self.writer.close()


def start(
    config: TrackingConfig,
    run_dir: Path,
    settings: dict[str, Any],
    log_info: Callable[[str], None],
    job_type: str | None,
) -> TensorboardTracker:
    """Open the event files of a run and log how to view them."""
    tracker = TensorboardTracker(run_dir / FOLDER)
    tracker.log_text("config", "\n".join(f"{key}={value}" for key, value in flatten(settings).items()))
    log_info(f"TensorBoard: tensorboard --logdir {run_dir.parent}")
    return tracker
