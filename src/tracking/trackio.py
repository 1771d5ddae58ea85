"""Trackio: SQLite files in the output folder, shown by `trackio show` without an account. Extra [trackio]."""

import io
import os
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

from src.config.schema import TrackingConfig
from src.runtime.atomic_files import write_text
from src.tracking.tracker import Comparison, numbers_of

STARTED = "trackio.txt"
"""File in the run directory that says that Trackio knows the run, so that a resumed run continues there."""


class TrackioTracker:
    """A run in Trackio. Steps that are repeated after a rewind are logged again, with the same values."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, row: dict[str, Any], global_step: int) -> None:
        self.run.log(numbers_of(row), step=global_step)

    def rewind(self, global_step: int) -> None:
        """Do nothing: Trackio deletes no metrics."""

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        columns = ["prompt", "text"]
        self._log_table(f"samples/{stage}", columns, [[s[name] for name in columns] for s in samples], global_step)

    def log_comparison(self, comparison: Comparison) -> None:
        trackio: Any = import_module("trackio")
        texts = {name: trackio.Markdown(text) for name, text in comparison.texts.items()}
        self.run.log(texts, step=0)
        self._log_table("comparison", comparison.columns, comparison.rows, 0)
        self.run.log_artifact(comparison.report, name="report", type="report")

    def _log_table(self, name: str, columns: list[str], rows: list[list[str]], global_step: int) -> None:
        import pandas as pd

        trackio: Any = import_module("trackio")
        self.run.log({name: trackio.Table(dataframe=pd.DataFrame(rows, columns=columns))}, step=global_step)

    def summarize(self, results: dict[str, Any]) -> None:
        self.run.log({f"final/{name}": value for name, value in numbers_of(results).items()})

    def finish(self, exit_code: int) -> None:
        with redirect_stdout(io.StringIO()):
            import_module("trackio").finish()


def start(
    config: TrackingConfig,
    run_dir: Path,
    settings: dict[str, Any],
    log_info: Callable[[str], None],
    job_type: str | None,
) -> TrackioTracker:
    """Open the run in Trackio and log how to view it."""
    folder = os.environ.setdefault("TRACKIO_DIR", str(run_dir.parents[1] / "trackio"))  # read when it is imported
    saved = run_dir / STARTED
    with redirect_stdout(io.StringIO()):  # its advertisement
        trackio: Any = import_module("trackio")
        run = trackio.init(
            project=config.project,
            name=run_dir.name,
            group=config.group,
            config=settings | {"job_type": job_type, "tags": config.tags},
            resume="allow" if saved.exists() else "never",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
    write_text(saved, f"{run_dir.name}\n")
    log_info(f"Trackio: TRACKIO_DIR={folder} trackio show --project {config.project}")
    return TrackioTracker(run)
