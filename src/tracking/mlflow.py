"""MLflow: a SQLite file in the output folder, or the server that MLFLOW_TRACKING_URI names. Extra [mlflow]."""

import logging
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from src.config.schema import TrackingConfig
from src.runtime.atomic_files import file_lock, write_text
from src.tracking.tracker import Comparison, flatten, numbers_of

RUN_ID = "mlflow.txt"
"""File in the run directory with the run's id in MLflow, by which a resumed run continues there."""
MAX_PARAMS = 100
"""Parameters in one request: MLflow's limit."""
MAX_VALUE = 6000
"""Characters in the value of a parameter: MLflow's limit."""


class MlflowTracker:
    """A run in MLflow. Steps that are repeated after a rewind are logged again, with the same values."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def log(self, row: dict[str, Any], global_step: int) -> None:
        entities: Any = import_module("mlflow.entities")
        now = int(time.time() * 1000)
        metrics = [entities.Metric(name, value, now, global_step) for name, value in numbers_of(row).items()]
        self.client.log_batch(self.run_id, metrics=metrics)

    def rewind(self, global_step: int) -> None:
        """Do nothing: MLflow deletes no metrics."""

    def log_samples(self, stage: str, samples: list[dict[str, str]], global_step: int) -> None:
        text = "\n\n".join(sample["text"] for sample in samples)
        self.client.log_text(self.run_id, text, f"samples/{stage}.txt")

    def log_comparison(self, comparison: Comparison) -> None:
        self.client.set_tag(self.run_id, "mlflow.note.content", "\n\n".join(comparison.texts.values()))
        self.client.log_artifacts(self.run_id, str(comparison.report), "report")

    def summarize(self, results: dict[str, Any]) -> None:
        self.log({f"final/{name}": value for name, value in results.items()}, 0)

    def finish(self, exit_code: int) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if exit_code == 0 else "FAILED")


def start(
    config: TrackingConfig,
    run_dir: Path,
    settings: dict[str, Any],
    log_info: Callable[[str], None],
    job_type: str | None,
) -> MlflowTracker:
    """Open the run in MLflow and log how to view it."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it lists every migration of a new file
    mlflow: Any = import_module("mlflow")
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    root = run_dir.parents[1]
    own = f"sqlite:///{root / 'mlflow.db'}"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or own
    with file_lock(root / ".mlflow.lock"):  # the jobs of a sweep would make the tables of a new file at once
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name(config.project)
        location = (root / "mlflow-artifacts").as_uri() if uri == own else None
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(config.project, location)
    saved = run_dir / RUN_ID
    try:
        run_id = client.get_run(saved.read_text(encoding="utf-8").strip()).info.run_id
        client.update_run(run_id, status="RUNNING")
    except (OSError, mlflow.MlflowException):  # a new run, or another file or server than before
        tags = {"sweep": config.group or "", "job_type": job_type or "", "tags": ",".join(config.tags)}
        run_id = client.create_run(
            experiment_id, run_name=run_dir.name, tags={key: value for key, value in tags.items() if value}
        ).info.run_id
        write_text(saved, run_id)
        _log_params(client, run_id, flatten(settings))
    shown = f"mlflow ui --backend-store-uri {uri}" if uri.startswith("sqlite:") else uri
    log_info(f"MLflow: {shown}")
    return MlflowTracker(client, run_id)


def _log_params(client: Any, run_id: str, values: dict[str, Any]) -> None:
    entities: Any = import_module("mlflow.entities")
    params = [entities.Param(key, str(value)[:MAX_VALUE]) for key, value in values.items()]
    for first in range(0, len(params), MAX_PARAMS):
        client.log_batch(run_id, params=params[first : first + MAX_PARAMS])
