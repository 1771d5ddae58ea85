"""A published sweep gives the same report and contains nothing private."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src.config.schema import UserError
from src.report import main
from src.reporting import (
    load_metrics,
    load_runs,
    load_samples,
    publish_runs,
    repeated_lines,
    verdict_lines,
    write_report,
)
from src.reporting.data.publish import ROWS
from src.reporting.tables.comparison import comparison_table
from tests.reporting.conftest import SweepBuilder


def write_evaluation(run_dir: Path, *, samples: Any = (0.0,), **weights: str) -> None:
    stages = {
        stage: {"corpus": stage, "weights_sha256": sha256, "samples": list(samples), "test": {}, "context": {}}
        for stage, sha256 in weights.items()
    }
    (run_dir / "evaluation.json").write_text(json.dumps({"format_version": 1, "stages": stages}))


@pytest.fixture
def sweep(builder: SweepBuilder) -> Path:
    """Two architectures, three seeds, and a failed run."""
    for architecture in ("dense", "mamba"):
        for seed in range(3):
            write_evaluation(builder.add(architecture, seed), language=f"{architecture}{seed}", code="b" * 64)
    builder.add("moe", status="failed", error="error: no room in /home/someone/outputs")
    for job in builder.jobs:
        job["overrides"] += ["output_root='/home/someone/x'", "tracking.group=g", "hydra.mode=RUN", "data.dir=/home/y"]
    builder.plan("later", "hybrid")
    (builder.sweep / "learning_rates.json").write_text('{"format_version": 1, "searches": []}')
    return builder.sweep


def publish_sweep(sweep: Path, out: Path) -> pd.DataFrame:
    assert publish_runs(sweep, load_runs(sweep), out) == sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    return load_runs(out)


def test_the_report_is_the_same(sweep: Path, tmp_path: Path) -> None:
    before, published = load_runs(sweep), publish_sweep(sweep, tmp_path / "kept")
    assert verdict_lines(published) == verdict_lines(before)
    assert comparison_table(published) == comparison_table(before)
    same = [column for column in before.columns if column not in ("run_dir", "error", "contract")]
    pd.testing.assert_frame_equal(published[same], before[same])
    assert list(published["contract"]) == list(before["contract"])
    assert write_report(tmp_path / "kept").is_file()


def test_metrics_are_thinned_and_validation_rows_are_kept(sweep: Path, tmp_path: Path) -> None:
    publish_sweep(sweep, tmp_path / "kept")
    before, published = load_metrics(sweep), load_metrics(tmp_path / "kept")
    per_run = published.groupby("run").size()
    assert 20 < per_run.max() <= 1.5 * ROWS < before.groupby("run").size().max()
    columns = ["run", "stage", "step", "val/loss"]
    all_values, kept_values = (
        frame[frame["val/loss"].notna()][columns].to_numpy().tolist() for frame in (before, published)
    )
    assert kept_values == all_values


def test_machine_details_are_not_published(sweep: Path, tmp_path: Path) -> None:
    publish_sweep(sweep, tmp_path / "kept")
    for file in (tmp_path / "kept").rglob("*"):
        if file.is_file():
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            text = content.decode()
            assert "/home" not in text and str(tmp_path) not in text and "hydra.mode" not in text, file
    assert '"architecture=dense"' in (tmp_path / "kept" / "sweep.json").read_text()


def test_a_published_command_has_no_path(builder: SweepBuilder, tmp_path: Path) -> None:
    command = "python -m src.train data=local 'data.code.paths=[/home/me/a b.sh]' init_from=/home/x seed=1"
    builder.add("dense", summary={"command": command})
    builder.plan("moe-nano-full-s0-0000abcd", "moe", overrides=["seed=1", "learning_rates=['/home/me/rates']"])
    publish_sweep(builder.sweep, tmp_path / "kept")
    published = json.loads(gzip.decompress((tmp_path / "kept" / "runs.json.gz").read_bytes()))
    summary = published["runs"]["dense-nano-full-s0-0000abcd"]["summary"]
    assert summary["command"] == "python -m src.train data=local data.code.paths=... init_from=... seed=1"
    assert '"learning_rates=..."' in (tmp_path / "kept" / "sweep.json").read_text()
    page = write_report(tmp_path / "kept").read_text("utf-8")
    assert "data.code.paths=... init_from=... seed=1" in page


def test_samples_copied_from_training_text_are_not_published(builder: SweepBuilder, tmp_path: Path) -> None:
    run = builder.add("dense", stages=("language",))
    texts = [{"prompt": f"p{i}", "text": f"p{i} said"} for i in range(4)]
    (run / "samples" / "language.json").write_text(json.dumps(texts))
    write_evaluation(run, language="a", samples=(0.0, 0.25, None))
    published = publish_sweep(builder.sweep, tmp_path / "kept")
    assert [sample["prompt"] for sample in load_samples(published)] == ["p0"], "the last was never compared"


def test_publishing_again_replaces_the_publication(sweep: Path, tmp_path: Path) -> None:
    published = tmp_path / "kept"
    publish_sweep(sweep, published)
    (published / "runs" / "of-an-earlier-version").mkdir(parents=True)
    (published / "RESULTS.md").write_text("mine")
    publish_sweep(sweep, published)
    assert not (published / "runs").exists() and (published / "RESULTS.md").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="something else in it"):
        publish_sweep(sweep, other)
    assert [file.name for file in other.iterdir()] == ["thesis.tex"]


def test_runs_are_never_replaced_by_their_publication(builder: SweepBuilder) -> None:
    """The folder `outputs` has a subfolder `runs` as well."""
    run = builder.add("dense")
    (run / "config.yaml").write_text("seed: 0")
    with pytest.raises(UserError, match="something else in it"):
        publish_sweep(builder.sweep, builder.root)
    assert (run / "config.yaml").is_file() and (run / "metrics.jsonl").is_file()


def test_repeated_runs_are_compared_by_weights(tmp_path: Path) -> None:
    first, again = SweepBuilder(tmp_path / "first"), SweepBuilder(tmp_path / "again")
    for seed in range(3):
        for builder in (first, again):
            write_evaluation(builder.add("dense", seed), language="a" * 64, code="b" * 64)
    write_evaluation(first.add("mamba"), language="c" * 64)
    lines = repeated_lines(load_runs(first.sweep), load_runs(again.sweep))
    assert lines == [
        "3 of 3 repeated runs ended with the same weights, bit for bit (SHA-256, after every stage).",
        "1 run was made or evaluated only once.",
    ]
    write_evaluation(again.root / "runs" / "dense-nano-full-s1-0000abcd", language="a" * 64, code="d" * 64)
    lines = repeated_lines(load_runs(first.sweep), load_runs(again.sweep))
    assert lines[0].startswith("2 of 3 repeated runs")
    assert lines[1] == "dense-nano-full-s1-0000abcd: different weights after stage code"


def test_runs_without_weights_are_not_compared(builder: SweepBuilder) -> None:
    builder.add("dense")
    assert repeated_lines(*[load_runs(builder.sweep)] * 2) == [
        "No run of the two has the same name and weights that could be compared."
    ]


@pytest.mark.slow
def test_the_publish_command(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published = tmp_path / "kept"
    assert main([f"dir={sweep}", f"publish_to={published}"]) == 0
    assert f"Published: {published}, " in capsys.readouterr().out
    assert main([f"dir={published}", f"compare_with={sweep}"]) == 0
    message = "6 of 6 repeated runs ended with the same weights"
    assert message in capsys.readouterr().out
    for name in ("summary.md", "report.html"):
        assert message in (published / "report" / name).read_text(encoding="utf-8")
