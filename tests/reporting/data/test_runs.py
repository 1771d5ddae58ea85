import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from src.config.schema import UserError
from src.reporting import load_metrics, load_runs, load_samples, verdict_lines
from src.reporting.data.find_runs import variants
from src.reporting.data.metrics_file import read_metrics
from src.reporting.data.runs import COLUMNS, to_records


def only_row(frame: pd.DataFrame) -> dict:
    (row,) = to_records(frame)
    return row


def test_known_columns_come_first_in_fixed_order(four):
    runs = load_runs(four.sweep)
    assert tuple(runs.columns[: len(COLUMNS)]) == COLUMNS
    assert COLUMNS[:4] == ("run", "architecture", "size", "recipe") and COLUMNS[-1] == "error"
    more = {"active_non_embedding_params", "match", "match_residual", "run_dir", "language/val_loss"}
    more |= {"code/val_bits_per_byte", "language/floor_bits_per_byte", "language/unigram_loss", "language/uniform_loss"}
    assert more <= set(runs.columns)


def test_values_of_a_finished_run(four):
    row = to_records(load_runs(four.sweep))[0]
    assert row["architecture"] == "dense" and row["status"] == "done" and row["error"] is None
    assert row["tokens"] == 2 * 307_200 and row["val_loss"] == pytest.approx(2.0)
    assert row["language/val_loss"] == pytest.approx(2.2) and row["language/floor_bits_per_byte"] == 0.62
    assert row["code/floor_bits_per_byte"] is None
    assert row["solved"] == "n_blocks=10 d_state=64" and row["contract"]["training.seq_len"] == 128


def test_the_same_runs_from_sweep_folder_and_output_root(four):
    names = [set(load_runs(path)["run"]) for path in (four.sweep, four.root / "runs", four.root, str(four.sweep))]
    assert len(names[0]) == 4 and all(found == names[0] for found in names)


def test_a_single_run(four):
    run_dir = next((four.root / "runs").glob("mamba-*"))
    assert only_row(load_runs(run_dir))["run"] == run_dir.name


def test_runs_are_sorted_by_size_architecture_and_seed(builder):
    builder.add("hybrid", level=1.0)
    builder.add("zebra")
    builder.add("dense", seed=1)
    builder.add("dense", seed=0, level=9.0)
    builder.add("dense", size="micro", summary={"accounting": {"total_params": 10}})
    rows = load_runs(builder.sweep)[["size", "architecture", "seed"]]
    assert rows.to_numpy().tolist() == [
        ["micro", "dense", 0],
        ["nano", "dense", 0],
        ["nano", "dense", 1],
        ["nano", "hybrid", 0],
        ["nano", "zebra", 0],
    ]


def test_a_job_that_never_started_is_pending(builder):
    builder.plan("moe-nano-full-s0-0000abcd", "moe")
    row = only_row(load_runs(builder.sweep))
    assert (row["status"], row["error"], row["architecture"], row["seed"]) == ("pending", None, "moe", 0)
    assert load_metrics(builder.sweep).empty


@pytest.mark.parametrize(
    ("job", "summary", "status"),
    [
        ("failed", "running", "failed"),
        ("interrupted", "running", "interrupted"),
        ("interrupted", "done", "done"),  # another command went on with it
        ("running", "running", "running"),
        ("running", "done", "done"),
        ("running", "failed", "failed"),
        ("done", "done", "done"),
    ],
)
def test_the_job_record_overrides_a_stale_running_status(builder, job, summary, status):
    run_dir = builder.add("dense", status=summary, error="child's word" if summary == "failed" else None)
    builder.job_record(run_dir.name, job, error="killed by signal 9" if job == "failed" else None)
    row = only_row(load_runs(builder.sweep))
    expected = {"running": "child's word", "failed": "killed by signal 9"}.get(job) if status == "failed" else None
    assert (row["status"], row["error"]) == (status, expected)


def test_a_failed_run_keeps_its_finished_stages(builder):
    builder.add("mamba", status="failed", error="RuntimeError:\n  out of\x1b[31m memory", stages=("language",))
    row = only_row(load_runs(builder.sweep))
    assert row["val_loss"] is None and row["language/val_loss"] == pytest.approx(2.3)
    assert row["error"] == "RuntimeError: out of\ufffd[31m memory"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"stages": {"language": 3}, "seed": "x"']
)
def test_an_unreadable_summary_becomes_a_row(four, content):
    (next((four.root / "runs").glob("moe-*")) / "summary.json").write_bytes(content)
    rows = {row["architecture"]: row for row in to_records(load_runs(four.sweep))}
    assert rows["moe"]["status"] == "unknown" and "summary.json" in rows["moe"]["error"]
    assert [row["status"] for row in rows.values()].count("done") == 3
    assert len(load_runs(four.root)) == 4


def test_a_summary_with_invalid_values_becomes_a_row(four):
    path = next((four.root / "runs").glob("moe-*")) / "summary.json"
    odd = {
        "status": "done",
        "architecture": ["moe"],
        "seed": "zero",
        "stages": {"language": 3, "code": {"tokens": "x"}},
    }
    path.write_text(json.dumps({**odd, "final": [], "accounting": None, "contract": 1, "solved": None}))
    row = {row["run"]: row for row in to_records(load_runs(four.root))}[path.parent.name]
    assert row["status"] == "done" and row["seed"] is None and row["contract"] == {} and row["code/tokens"] is None


def test_a_run_without_a_summary_and_a_broken_job_record(four):
    run_dir = next((four.root / "runs").glob("hybrid-*"))
    (run_dir / "summary.json").unlink()
    (four.sweep / "jobs" / f"{run_dir.name}.json").write_text('{"status": "do')
    row = to_records(load_runs(four.sweep))[-1]
    assert (row["run"], row["status"], row["error"]) == (run_dir.name, "unknown", "summary.json is missing")


def test_temporary_folders_are_not_runs(four):
    for name in (".dense.123.tmp", "dense.old", "notes"):
        (four.root / "runs" / name).mkdir()
    for name in (".dense.123.tmp", "dense.old"):
        (four.root / "runs" / name / "summary.json").write_text("{}")
    assert len(load_runs(four.root)) == 4


def test_a_folder_without_runs_is_a_one_line_error(tmp_path, four):
    with pytest.raises(UserError, match="no run in this folder; train first"):
        load_runs(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load_runs(tmp_path / "missing")
    with pytest.raises(UserError, match=r"give one of its sweeps, such as .*demo-12345678"):
        load_runs(four.sweep.parent)
    (four.sweep / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="lists no job"):
        load_runs(four.sweep)
    (four.sweep / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="not a JSON file"):
        load_runs(four.sweep)


def test_metrics_have_one_row_per_run_and_step(four):
    metrics = load_metrics(four.sweep)
    assert list(metrics.columns[:9]) == [
        "run", "architecture", "size", "seed", "stage", "step", "tokens", "flops", "wall_time_s",
    ]  # fmt: skip
    assert len(metrics) == 4 * 2 * 151 and metrics["val/loss"].notna().sum() == 4 * 2 * 11
    assert metrics["train/loss"].dtype == "float64"


def test_incomplete_and_invalid_lines_are_ignored(four):
    path = next((four.root / "runs").glob("dense-*")) / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'[1]\n{"no": "stage"}\n\xff\n\n{"stage": "code", "step": 15')
    assert len(load_metrics(four.sweep)) == 4 * 2 * 151


def test_missing_metrics_give_no_rows(four):
    next((four.root / "runs").glob("dense-*")).joinpath("metrics.jsonl").unlink()
    assert set(load_metrics(four.sweep)["architecture"]) == {"mamba", "moe", "hybrid"}


def test_a_resumed_run_has_each_step_once(builder):
    run_dir = builder.add("dense")
    rows = [{"stage": "language", "step": step, "train/loss": loss} for step, loss in [(10, 9), (20, 8), (30, 7)]]
    rows += [{"stage": "language", "step": 20, "train/loss": 5}, {"stage": "language", "step": 30, "train/loss": 4}]
    rows += [{"stage": "code", "step": 10, "train/loss": 3}]
    (run_dir / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    metrics = load_metrics(builder.sweep)
    assert metrics["train/loss"].tolist() == [9, 5, 4, 3] and metrics["step"].tolist() == [10, 20, 30, 10]


def test_thinning_keeps_validation_rows(four):
    runs = load_runs(four.sweep)
    full, thin = load_metrics(four.sweep), read_metrics(runs, max_rows=50)
    assert len(thin) < len(full) / 3 and thin["val/loss"].count() == full["val/loss"].count()


def test_samples_exclude_their_prompt(four):
    path = next((four.root / "runs").glob("dense-*")) / "samples" / "code.json"
    path.write_text(
        json.dumps([{"prompt": "#!/bin/bash", "text": "#!/bin/bash\necho \x07\ud800hi"}, 3, {"text": None}])
    )
    samples = [sample for sample in load_samples(load_runs(four.sweep)) if sample["architecture"] == "dense"]
    assert [sample["text"] for sample in samples if sample["stage"] == "code"] == ["\necho \ufffd?hi", "", ""]


def test_torch_is_not_imported():
    code = "import sys, src.reporting, src.config.comparability; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_varied_settings_of_an_architecture_are_part_of_its_name(builder):
    for window, level in ((64, 2.0), (128, 2.2)):
        for seed in range(3):
            run = f"hybrid-nano-full-s{seed}-{window:08}"
            builder.add("hybrid", seed, run=run, level=level)
            builder.jobs[-1]["overrides"] += [f"architecture.window={window}", f"seed={seed}"]
    (builder.sweep / "sweep.json").write_text(json.dumps({"jobs": builder.jobs}))
    runs = load_runs(builder.sweep)
    assert list(runs["architecture"]) == ["hybrid window=64"] * 3 + ["hybrid window=128"] * 3
    assert any("best is hybrid window=64" in line and "worse hybrid window=128" in line for line in verdict_lines(runs))


def test_a_setting_shared_by_all_jobs_is_not_part_of_a_name():
    assert variants([["architecture=hybrid", "architecture.window=64"]] * 2) == ["", ""]
    assert variants([["architecture.top_k=2"], ["architecture=dense"]]) == ["top_k=2", ""]
