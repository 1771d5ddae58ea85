"""An untrusted sweep or run: nothing is written or read outside its folder, and its text is never executed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import UserError
from src.reporting import comparison_text, load_runs, load_samples, publish_runs, write_report
from src.reporting.data.archive import run_folders
from src.reporting.data.runs import load_evaluation
from tests.reporting.conftest import SweepBuilder


def list_files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def change_record(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    "job",
    [
        {"run": "../../.."},
        {"run": "/tmp/elsewhere"},
        {"run": ".."},
        {"run": None},
        {"run_dir": "../../../.."},
        {"run_dir": "/etc"},
        {"run": "a/../b", "run_dir": "../../runs/a/../b"},
    ],
)
def test_jobs_cannot_name_runs_outside_the_runs_folder(job: dict[str, Any], four: SweepBuilder, tmp_path: Path) -> None:
    sweep = json.loads((four.sweep / "sweep.json").read_text())
    sweep["jobs"][1] |= job
    (four.sweep / "sweep.json").write_text(json.dumps(sweep))
    before = list_files(tmp_path)
    for command in (load_runs, write_report):
        with pytest.raises(UserError, match=r"plain name|is not a directory of runs"):
            command(four.sweep)
    assert list_files(tmp_path) == before


@pytest.mark.parametrize("stage", ["../../../x", "/tmp/x", "..", "a/b", "../../secret"])
def test_a_stage_name_cannot_be_a_path(stage: str, four: SweepBuilder, tmp_path: Path) -> None:
    run = next((four.root / "runs").glob("dense-*"))
    (tmp_path / "secret.json").write_text('[{"prompt": "", "text": "a secret of this disk"}]')
    stages = json.loads((run / "summary.json").read_text())["stages"]
    change_record(run / "summary.json", stages={**stages, stage: stages["code"]})
    entry = {"weights_sha256": "a", "corpus": "code", "test": {}, "references": {}, "samples": [0.0]}
    (run / "evaluation.json").write_text(json.dumps({"format_version": 1, "stages": {stage: entry}}))
    assert stage not in load_evaluation(run)
    runs = load_runs(four.sweep)
    assert not [column for column in runs.columns if column.startswith(stage)]
    assert "a secret" not in str(load_samples(runs))
    kept = tmp_path / "out" / "kept"
    publish_runs(four.sweep, runs, kept)
    page = write_report(four.sweep).read_text()
    assert "a secret of this disk" not in page
    names = {path.name for path in (tmp_path / "out").rglob("*.json")}
    assert names <= {"sweep.json"}
    unpacked = {path.name for path in run_folders(kept).rglob("*.json")}
    assert unpacked <= {"sweep.json", "summary.json", "evaluation.json", "code.json", "language.json"}
    assert not list(tmp_path.glob("x*")) and not list((tmp_path / "out").glob("x*"))


@pytest.mark.parametrize("place", ["report", "report/figures", "report/summary.csv"])
def test_a_report_is_not_written_through_a_link(place: str, four: SweepBuilder, tmp_path: Path) -> None:
    outside_file = tmp_path / "victim"
    outside_file.mkdir()
    (outside_file / "file").write_text("mine")
    link = four.sweep / place
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside_file / "file" if "." in place else outside_file)
    with pytest.raises(UserError, match="is a symbolic link"):
        write_report(four.sweep)
    assert list_files(outside_file) == {"file"} and (outside_file / "file").read_text() == "mine"


def test_files_of_a_run_are_not_read_through_links(four: SweepBuilder, tmp_path: Path) -> None:
    run = next((four.root / "runs").glob("dense-*"))
    (tmp_path / "secret.json").write_text('[{"prompt": "", "text": "a secret of this disk"}]')
    (run / "samples" / "code.json").unlink()
    (run / "samples" / "code.json").symlink_to(tmp_path / "secret.json")
    page = write_report(four.sweep)
    assert "a secret" not in page.read_text()
    assert "samples/code.json: is a symbolic link" in page.with_name("summary.md").read_text().replace("\\", "")


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "@SUM(1+1)", "+1+1", "-1+1"])
def test_csv_cells_are_not_formulas(text: str, builder: SweepBuilder) -> None:
    builder.add("dense", status="failed", error=text)
    builder.add("mamba", summary={"data": text, "solved": {text: 1}})
    with (write_report(builder.sweep).parent / "summary.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert f"'{text}" in cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@")) or (cell[:1] == "-" and cell[1:2] == "1")]


def test_numbers_in_a_csv_are_unchanged(builder: SweepBuilder) -> None:
    builder.add("dense", summary={"match_residual": -0.25})
    with (write_report(builder.sweep).parent / "summary.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["match_residual"]) == -0.25


def test_control_characters_never_reach_the_terminal(builder: SweepBuilder) -> None:
    malicious_text = "\x1b[2J\x1b]0;title\x07\x9b31m\x08"
    builder.add(
        "dense", status="failed", error=f"error {malicious_text}", summary={"architecture": f"dense{malicious_text}"}
    )
    builder.add("mamba", contract={"recipe": malicious_text, malicious_text: malicious_text})
    builder.add("moe", contract={"recipe": "other"})
    text = comparison_text(load_runs(builder.sweep))
    assert "error" in text and not set(text) & set("\x1b\x07\x9b\x08")


@pytest.mark.slow
@pytest.mark.images
def test_a_failing_figure_is_one_log_line(four: SweepBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("Data cannot be log-scaled")

    monkeypatch.setattr("src.reporting.plots.figure._label_right", fail)  # only of the figures of loss
    monkeypatch.setattr("src.reporting.plots.charts.expert_chart", fail)
    monkeypatch.setattr("src.reporting.tables.secondary._cost", fail)
    page = write_report(four.sweep)
    text = page.with_name("summary.md").read_text().replace("\\", "")
    for what in ("figure loss_vs_tokens", "chart of experts", "table of size and cost"):
        assert f"{what}: left out (ValueError: Data cannot be log-scaled)" in text
    assert "Left out" in page.read_text() and (page.parent / "figures" / "speed.png").is_file()
    assert not (page.parent / "figures" / "loss_vs_tokens.png").exists()


@pytest.mark.slow
@pytest.mark.images
def test_a_figure_without_any_point_is_drawn(four: SweepBuilder) -> None:
    """Recall with few names leaves no range to draw."""
    for run in (four.root / "runs").iterdir():
        recall = {"to": [8, 16], "n": [2, 1], "accuracy": [0.5, 1.0]}
        context = {"recall": recall, "hidden": {"n": [1], "accuracy": [0.5]}, "positions": {"to": [], "loss": []}}
        entry = {"weights_sha256": "a", "corpus": "code", "test": {}, "references": {}, "context": context}
        (run / "evaluation.json").write_text(json.dumps({"format_version": 1, "stages": {"code": entry}}))
    page = write_report(four.sweep)
    assert "Left out" not in page.with_name("summary.md").read_text()
    assert (page.parent / "figures" / "recall_by_distance.png").is_file()
