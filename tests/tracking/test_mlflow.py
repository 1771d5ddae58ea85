"""MLflow has the values of metrics.jsonl, the settings and texts, and a sweep's report."""

from pathlib import Path
from typing import Any

import pytest

from src.config.schema import TrackingConfig, TrainConfig
from src.reporting import answer_lines, load_runs, write_report
from src.runtime.atomic_files import read_json
from src.sweep.launch import track_comparison
from tests.integration import tiny
from tests.reporting.conftest import SweepBuilder

mlflow: Any = pytest.importorskip("mlflow")
PROJECT = "advanced-code-model"
pytestmark = pytest.mark.filterwarnings("default")  # its libraries warn about each other


@pytest.fixture(autouse=True)
def _own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def read_runs(output_root: Path) -> tuple[Any, list[Any]]:
    """Return a client of the file of an output folder, and its runs."""
    client = mlflow.MlflowClient(f"sqlite:///{output_root / 'mlflow.db'}")
    return client, list(client.search_runs([client.get_experiment_by_name(PROJECT).experiment_id]))


def read_text(output_root: Path, run: Any, name: str) -> str:
    folder = next((output_root / "mlflow-artifacts").glob(f"*{run.info.run_id}*")) / "artifacts"
    return (folder / name).read_text(encoding="utf-8")


def test_a_resumed_run_is_one_run_with_all_metrics(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("tracking=mlflow", "tracking.tags=[a,b]", "evaluation.enabled=false")
    with monkeypatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert tiny.run(data, tmp_path, *arguments) == 130
    client, (run,) = read_runs(tmp_path)
    assert run.info.status == "FAILED"
    assert tiny.run(data, tmp_path, *arguments) == 0
    client, (run,) = read_runs(tmp_path)
    folder = tiny.only_run(tmp_path)
    assert (run.info.run_name, run.info.status) == (folder.name, "FINISHED")
    assert (run.data.tags["tags"], run.data.tags["job_type"]) == ("a,b", "language")
    assert run.data.params["training.max_steps"] == "6" and "contract.data_hash" in run.data.params
    history = client.get_metric_history(run.info.run_id, "train/loss")
    logged = {metric.step: metric.value for metric in history}  # a repeated step has the same value
    assert logged == {row["step"]: row["train/loss"] for row in tiny.read_rows(folder) if "train/loss" in row}
    assert run.data.metrics["final/val_loss"] == read_json(folder / "summary.json")["final"]["val_loss"]
    sample = read_json(folder / "samples" / "language.json")[0]["text"]
    assert sample in read_text(tmp_path, run, "samples/language.txt")
    assert tiny.run(data, tmp_path, *arguments, "rerun=true") == 0
    assert len(read_runs(tmp_path)[1]) == 2


def test_the_report_of_a_sweep_is_an_artifact_of_a_run_of_its_own(tmp_path: Path) -> None:
    builder = SweepBuilder(tmp_path / "outputs")
    for architecture in ("dense", "mamba"):
        builder.add(architecture)
    write_report(builder.sweep)
    tracking = TrackingConfig("mlflow", trackers=["mlflow"], project=PROJECT)
    track_comparison(TrainConfig(tracking=tracking), builder.sweep)
    _, (run,) = read_runs(tmp_path / "outputs")
    assert (run.data.tags["job_type"], run.data.tags["sweep"]) == ("comparison", builder.sweep.name)
    assert "\n".join(answer_lines(load_runs(builder.sweep))) in run.data.tags["mlflow.note.content"]
    page = (builder.sweep / "report" / "report.html").read_text(encoding="utf-8")
    assert read_text(tmp_path / "outputs", run, "report/report.html") == page
