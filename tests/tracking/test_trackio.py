"""Trackio has the values of metrics.jsonl, the texts, and a sweep's report."""

from pathlib import Path
from typing import Any

import pytest

from src.config.schema import TrackingConfig, TrainConfig
from src.reporting import write_report
from src.sweep.launch import track_comparison
from tests.integration import tiny
from tests.reporting.conftest import SweepBuilder


@pytest.fixture(scope="module")
def trackio(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Import Trackio with a folder of its own, which it reads once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        yield pytest.importorskip("trackio")


def read_logs(trackio: Any, project: str, run: str) -> list[dict[str, Any]]:
    return trackio.SQLiteStorage.get_logs(project, run)


def test_a_resumed_run_is_one_run_with_all_metrics(
    trackio: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("tracking=trackio", "tracking.project=resumed", "evaluation.enabled=false")
    with monkeypatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert tiny.run(data, tmp_path, *arguments) == 130
    assert tiny.run(data, tmp_path, *arguments) == 0
    folder = tiny.only_run(tmp_path)
    assert trackio.SQLiteStorage.get_runs("resumed") == [folder.name]
    rows = read_logs(trackio, "resumed", folder.name)
    logged = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert logged == {row["step"]: row["train/loss"] for row in tiny.read_rows(folder) if "train/loss" in row}
    assert any("samples/language" in row for row in rows) and "final/val_loss" in rows[-1]
    config = trackio.SQLiteStorage.get_run_config("resumed", folder.name)
    assert config["training"]["max_steps"] == 6


def test_the_report_of_a_sweep_is_an_artifact_of_a_run_of_its_own(trackio: Any, tmp_path: Path) -> None:
    builder = SweepBuilder(tmp_path / "outputs")
    for architecture in ("dense", "mamba"):
        builder.add(architecture)
    write_report(builder.sweep)
    tracking = TrackingConfig("trackio", trackers=["trackio"], project="sweep")
    track_comparison(TrainConfig(tracking=tracking), builder.sweep)
    (row, *_) = read_logs(trackio, "sweep", builder.sweep.name)
    assert "answer" in row and "verdict" in row
    (artifact,) = trackio.SQLiteStorage.get_artifacts("sweep")
    assert (artifact["name"], artifact["type"]) == ("report", "report")
