"""TensorBoard shows the values of metrics.jsonl, each once, also after a resume or a rewind, and what a sweep found."""

from pathlib import Path
from typing import Any

import pytest

from src.config.schema import TrackingConfig, TrainConfig
from src.reporting import answer_lines, load_runs, write_report
from src.runs import stage_runner
from src.runtime.atomic_files import read_json
from src.sweep.launch import track_comparison
from src.tracking.tensorboard import TensorboardTracker
from tests.integration import tiny
from tests.reporting.conftest import SweepBuilder

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def load_events(folder: Path) -> Any:
    found = event_accumulator.EventAccumulator(str(folder / "tensorboard"), {"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def read_scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in load_events(folder).Scalars(name)]


def read_metric(folder: Path, name: str) -> list[float]:
    return [row[name] for row in tiny.read_rows(folder) if name in row]


def test_tensorboard_has_all_metrics_samples_and_settings(data: Path, tmp_path: Path) -> None:
    assert tiny.run(data, tmp_path, "tracking=tensorboard", "stage=full", "evaluation.enabled=false") == 0
    folder = tiny.only_run(tmp_path)
    val = read_scalars(folder, "val/loss")
    assert [step for step, _ in val] == [0, 3, 6, 7, 10, 13]
    assert [value for _, value in val] == pytest.approx(read_metric(folder, "val/loss"))
    text = load_events(folder).Tensors("samples/code/0/text_summary")[0].tensor_proto.string_val[0].decode()
    sample = read_json(folder / "samples" / "code.json")[0]["text"]
    assert "\n".join(line[4:] for line in text.split("\n")) == sample
    config = load_events(folder).Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    contract.data_hash=" in config and "    seed=0" in config


def test_a_resumed_run_logs_each_step_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, arguments = stage_runner.StageHooks.log, ("tracking=tensorboard", "evaluation.enabled=false")

    def stop(self: Any, row: dict[str, Any]) -> None:
        original(self, row)
        if row["step"] == 5:  # the last checkpoint is of step 4
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage_runner.StageHooks, "log", stop)
        assert tiny.run(data, tmp_path, *arguments) == 130
    assert tiny.run(data, tmp_path, *arguments) == 0
    folder = tiny.only_run(tmp_path)
    loss = read_scalars(folder, "train/loss")
    assert [step for step, _ in loss] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in loss] == pytest.approx(read_metric(folder, "train/loss"))


def test_steps_after_a_rewind_are_hidden(tmp_path: Path) -> None:
    tracker = TensorboardTracker(tmp_path / "tensorboard")
    for step in range(4):
        tracker.log({"loss": float(step)}, step)
    tracker.rewind(1)
    tracker.log({"loss": 20.0}, 2)
    tracker.finish(0)
    assert read_scalars(tmp_path, "loss") == [(0, 0.0), (1, 1.0), (2, 20.0)]


def test_a_sweep_has_its_answer_and_its_comparison(tmp_path: Path) -> None:
    builder = SweepBuilder(tmp_path / "outputs")
    for architecture in ("dense", "mamba"):
        builder.add(architecture)
    write_report(builder.sweep)
    tracking = TrackingConfig("tensorboard", trackers=["tensorboard"])
    track_comparison(TrainConfig(tracking=tracking), builder.sweep)
    events = load_events(builder.sweep)

    def text_of(name: str) -> str:
        return events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()

    answer = "\n".join(line[4:] for line in text_of("answer").split("\n"))
    assert answer == "\n".join(answer_lines(load_runs(builder.sweep))) != ""
    assert "verdict/text_summary" in events.Tags()["tensors"]
    rows = text_of("comparison").split("\n")
    assert rows[0].startswith("| architecture |") and [row.split()[1] for row in rows[2:]] == ["dense", "mamba"]


def test_a_missing_extra_is_a_one_line_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from src.cli import validation

    original = validation.importlib.util.find_spec
    monkeypatch.setattr(
        validation.importlib.util,
        "find_spec",
        lambda name, *more: None if name == "tensorboard" else original(name, *more),
    )
    assert tiny.run(data, tmp_path, "tracking=all") == 2
    assert "tracking=tensorboard: not installed; pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
