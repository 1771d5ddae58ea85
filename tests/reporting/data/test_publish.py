"""What is kept of a sweep makes the same report, and holds nothing that should stay behind."""

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


def evaluated(run_dir: Path, *, samples: Any = (0.0,), **weights: str) -> None:
    stages = {
        stage: {"corpus": stage, "weights_sha256": sha256, "samples": list(samples), "test": {}, "context": {}}
        for stage, sha256 in weights.items()
    }
    (run_dir / "evaluation.json").write_text(json.dumps({"format_version": 1, "stages": stages}))


@pytest.fixture
def sweep(builder: SweepBuilder) -> Path:
    """Two architectures, three seeds, and one run that failed."""
    for architecture in ("dense", "mamba"):
        for seed in range(3):
            evaluated(builder.add(architecture, seed), language=f"{architecture}{seed}", code="b" * 64)
    builder.add("moe", status="failed", error="error: no room in /home/someone/outputs")
    for job in builder.jobs:
        job["overrides"] += ["output_root='/home/someone/x'", "tracking.group=g", "hydra.mode=RUN", "data.dir=/home/y"]
    builder.plan("later", "hybrid")
    (builder.sweep / "learning_rates.json").write_text('{"format_version": 1, "searches": []}')
    return builder.sweep


def keep(sweep: Path, out: Path) -> pd.DataFrame:
    assert publish_runs(sweep, load_runs(sweep), out) == sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    return load_runs(out)


def test_the_report_is_the_same(sweep: Path, tmp_path: Path) -> None:
    before, kept = load_runs(sweep), keep(sweep, tmp_path / "kept")
    assert verdict_lines(kept) == verdict_lines(before)
    assert comparison_table(kept) == comparison_table(before)
    same = [column for column in before.columns if column not in ("run_dir", "error", "contract")]
    pd.testing.assert_frame_equal(kept[same], before[same])
    assert list(kept["contract"]) == list(before["contract"])
    assert write_report(tmp_path / "kept").is_file()


def test_metrics_are_thinned_and_every_validation_stays(sweep: Path, tmp_path: Path) -> None:
    keep(sweep, tmp_path / "kept")
    before, kept = load_metrics(sweep), load_metrics(tmp_path / "kept")
    per_run = kept.groupby("run").size()
    assert 20 < per_run.max() <= 1.5 * ROWS < before.groupby("run").size().max()
    columns = ["run", "stage", "step", "val/loss"]
    all_values, kept_values = (
        frame[frame["val/loss"].notna()][columns].to_numpy().tolist() for frame in (before, kept)
    )
    assert kept_values == all_values


def test_nothing_of_this_machine_is_kept(sweep: Path, tmp_path: Path) -> None:
    keep(sweep, tmp_path / "kept")
    for file in (tmp_path / "kept").rglob("*"):
        if file.is_file():
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            text = content.decode()
            assert "/home" not in text and str(tmp_path) not in text and "hydra.mode" not in text, file
    assert '"architecture=dense"' in (tmp_path / "kept" / "sweep.json").read_text()


def test_texts_that_stand_in_the_training_text_stay_behind(builder: SweepBuilder, tmp_path: Path) -> None:
    run = builder.add("dense", stages=("language",))
    texts = [{"prompt": f"p{i}", "text": f"p{i} said"} for i in range(4)]
    (run / "samples" / "language.json").write_text(json.dumps(texts))
    evaluated(run, language="a", samples=(0.0, 0.25, None))
    kept = keep(builder.sweep, tmp_path / "kept")
    assert [sample["prompt"] for sample in load_samples(kept)] == ["p0"], "the last was never compared"


def test_what_is_kept_again_takes_the_place_of_what_was(sweep: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    keep(sweep, kept)
    (kept / "runs" / "of-an-earlier-version").mkdir(parents=True)
    (kept / "RESULTS.md").write_text("mine")
    keep(sweep, kept)
    assert not (kept / "runs").exists() and (kept / "RESULTS.md").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="something else in it"):
        keep(sweep, other)
    assert [file.name for file in other.iterdir()] == ["thesis.tex"]


def test_runs_are_never_replaced_by_what_is_kept_of_them(builder: SweepBuilder) -> None:
    """`outputs` has a folder of runs as well."""
    run = builder.add("dense")
    (run / "config.yaml").write_text("seed: 0")
    with pytest.raises(UserError, match="something else in it"):
        keep(builder.sweep, builder.root)
    assert (run / "config.yaml").is_file() and (run / "metrics.jsonl").is_file()


def test_runs_made_again_are_compared_by_their_weights(tmp_path: Path) -> None:
    first, again = SweepBuilder(tmp_path / "first"), SweepBuilder(tmp_path / "again")
    for seed in range(3):
        for builder in (first, again):
            evaluated(builder.add("dense", seed), language="a" * 64, code="b" * 64)
    evaluated(first.add("mamba"), language="c" * 64)
    lines = repeated_lines(load_runs(first.sweep), load_runs(again.sweep))
    assert lines == [
        "3 of 3 repeated runs ended with the same weights, bit for bit (SHA-256, after every stage).",
        "1 run was made or evaluated only once.",
    ]
    evaluated(again.root / "runs" / "dense-nano-full-s1-0000abcd", language="a" * 64, code="d" * 64)
    lines = repeated_lines(load_runs(first.sweep), load_runs(again.sweep))
    assert lines[0].startswith("2 of 3 repeated runs")
    assert lines[1] == "dense-nano-full-s1-0000abcd: different weights after stage code"


def test_runs_without_weights_repeat_nothing(builder: SweepBuilder) -> None:
    builder.add("dense")
    assert repeated_lines(*[load_runs(builder.sweep)] * 2) == [
        "No run of the two has the same name and weights that could be compared."
    ]


def test_the_command(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"
    assert main([f"dir={sweep}", f"publish_to={kept}"]) == 0
    assert f"Published: {kept}, " in capsys.readouterr().out
    assert main([f"dir={kept}", f"compare_with={sweep}"]) == 0
    said = "6 of 6 repeated runs ended with the same weights"
    assert said in capsys.readouterr().out
    for name in ("summary.md", "report.html"):
        assert said in (kept / "report" / name).read_text(encoding="utf-8")
