"""The table of a sweep's jobs shows the state that their files record, even if files are incomplete."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from src.cli.command_line import job_names
from src.runtime.records import write_record
from src.sweep.job_store import Job, JobStore
from src.sweep.progress import read_sweep, show_cells
from src.sweep.progress_table import build_table, show_jobs
from tests.summaries import final, stage_results, write_summary


def job(number: int) -> Job:
    stages = {"language": 1000, "code": 3000}
    return Job(
        f"r{number}",
        f"../../runs/r{number}",
        [f"seed={number}"],
        "dense",
        "nano",
        "modern",
        "full",
        "local",
        number,
        stages,
    )


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    opened = JobStore(tmp_path / "sweeps" / "sweep")
    opened.open("s", [job(number) for number in range(4)])
    return opened


def write_metrics(store: JobStore, number: int, *rows: dict[str, object], more: str = "") -> None:
    folder = store.folder / job(number).run_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + more)


def render_table(store: JobStore, width: int = 140, rows: int = 30, hint: str = "") -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(build_table(read_sweep(store), width, rows, hint))
    return console.export_text()


def cells(store: JobStore, number: int) -> list[str]:
    return show_cells(read_sweep(store).jobs[number])


def test_a_branch_counts_the_tokens_that_it_trains_itself(tmp_path: Path) -> None:
    stages, shared = {"language": 1000, "part": 250}, {"language": 0, "part": 200}
    branched = Job("r0", "../../runs/r0", [], "dense", "nano", "modern", "b", "local", 0, stages, shared)
    opened = JobStore(tmp_path / "sweeps" / "sweep")
    opened.open("s", [branched])
    opened.record(branched, "running")
    write_metrics(opened, 0, {"stage": "part", "step": 9, "tokens": 325, "perf/tokens_per_second": 25.0})
    (found,) = read_sweep(opened).jobs
    assert (found.phase, found.stage, found.share, found.left_s) == ("training", "part", 0.9, 5.0)


def test_every_state_is_shown(store: JobStore) -> None:
    store.record(job(0), "running")
    write_metrics(
        store,
        0,
        {"stage": "language", "step": 9, "tokens": 1000, "val/loss": 3.25},
        {"stage": "code", "step": 1, "tokens": 1000, "perf/tokens_per_second": 40.0},
        more='{"stage": "code", "st',
    )
    store.record(job(1), "failed", 1, "RuntimeError: fire")
    write_summary(store.folder / job(2).run_dir)
    assert cells(store, 0)[:3] == ["dense s0", "training code", "50%"]
    assert cells(store, 0)[4:] == ["50 s", "3.250", "40"]
    assert cells(store, 1)[:2] == ["dense s1", "failed"]
    assert cells(store, 2)[1] == "done" and cells(store, 3)[:4] == ["dense s3", "waiting", "-", "-"]
    table = render_table(store)
    assert "dense s1: RuntimeError: fire" in table
    assert "1 done, 1 running, 1 failed, 1 waiting; " in table


def test_a_run_whose_stages_are_finished_is_evaluating(store: JobStore) -> None:
    store.record(job(0), "running")
    write_metrics(store, 0, {"stage": "code", "step": 9, "tokens": 3000, "perf/tokens_per_second": 40.0})
    assert read_sweep(store).jobs[0].phase == "training"
    write_summary(store.folder / job(0).run_dir, status="running", stages=stage_results("language"))
    assert read_sweep(store).jobs[0].phase == "training"
    write_summary(store.folder / job(0).run_dir, status="running", stages=stage_results("language", "code"))
    assert read_sweep(store).jobs[0].phase == "evaluating"


def test_partly_written_files_are_tolerated(store: JobStore) -> None:
    store.record(job(0), "running")
    for content in ("", "{", "[]\n", '{"stage": "other", "tokens": 1}\n', '{"stage": "code", "tokens": null}\n'):
        write_metrics(store, 0, more=content)
        assert cells(store, 0)[1:3] == ["starting", "0%"]


def test_the_time_left_of_a_sweep_uses_the_speed_of_each_model(tmp_path: Path) -> None:
    """dense is measured; moe has half of its FLOPs, so twice its speed is expected; two jobs run at the same time."""
    names = ("dense", "dense", "moe", "moe")
    jobs = [
        Job(f"r{n}", f"../../runs/r{n}", [], name, "nano", "m", "s", "d", n, {"language": 1000}, {}, flops)
        for n, (name, flops) in enumerate(zip(names, (10.0, 10.0, 5.0, 5.0), strict=True))
    ]
    store = JobStore(tmp_path / "sweeps" / "sweep")
    store.open("s", jobs)
    assert read_sweep(store).left_s is None
    store.record(jobs[1], "running")
    store.record(jobs[2], "running")
    write_metrics(store, 1, {"stage": "language", "step": 1, "tokens": 500, "perf/tokens_per_second": 10.0})
    found = read_sweep(store)
    assert [each.left_s for each in found.jobs] == [100.0, 50.0, 50.0, 50.0]
    assert found.left_s == (100 + 50 + 50 + 50) / 2


def test_the_evaluation_of_a_finished_job_counts_for_the_others(store: JobStore) -> None:
    store.record(job(0), "running")
    started = store.entry(job(0))
    assert started is not None
    write_summary(store.folder / job(0).run_dir, final=final(1000.0))
    write_record(store.folder / "jobs" / "r0.json", started | {"status": "done", "seconds": 14.0})
    found = read_sweep(store)
    assert found.jobs[0].elapsed_s == 14.0
    assert found.jobs[1].left_s == pytest.approx(4000 / 1000 + 10), "10 s of the finished job were no training"


def test_an_attempt_is_timed_and_finding_it_done_again_keeps_its_time(store: JobStore) -> None:
    store.record(job(0), "running")
    entry = store.entry(job(0))
    assert entry is not None
    write_record(store.folder / "jobs" / "r0.json", entry | {"time": entry["time"] - 20})
    for _ in range(2):
        store.record(job(0), "done", 0)
        recorded = store.entry(job(0))
        assert recorded is not None and 20 <= (recorded.get("seconds") or 0) < 25


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_table_fits_the_terminal(store: JobStore, width: int) -> None:
    store.record(job(0), "running")
    row = {"stage": "language", "step": 9, "tokens": 999, "val/loss": 3.25, "perf/tokens_per_second": 123_456.0}
    write_metrics(store, 0, row)
    store.record(job(1), "failed", 1, "x" * 300)
    lines = render_table(store, width, hint="Ctrl-C saves and stops").splitlines()
    assert max(map(len, lines)) <= width and len(lines) == 1 + 4 + 1 + 1
    assert ("tokens/s" in lines[0]) is (width == 200) and "left" in lines[0]


def test_a_long_sweep_shows_the_jobs_at_work(tmp_path: Path) -> None:
    jobs = [job(number) for number in range(100)]
    store = JobStore(tmp_path / "sweeps" / "sweep")
    store.open("s", jobs)
    for number in range(60):
        write_summary(store.folder / job(number).run_dir)
    store.record(jobs[60], "running")
    lines = render_table(store, rows=9).splitlines()
    shown = [line.split()[1] for line in lines[1:-1]]
    assert len(shown) == 9 and {"s59", "s60", "s61"} <= {*shown}
    assert lines[-1].startswith("60 done, 1 running, 39 waiting") and "91 not shown" in lines[-1]


def test_the_last_state_stays_on_the_screen(store: JobStore, capsys: pytest.CaptureFixture[str]) -> None:
    with show_jobs(store):
        write_summary(store.folder / job(0).run_dir)
    out = capsys.readouterr().out
    assert "1 done, 3 waiting" in out and "Ctrl-C" not in out


def test_jobs_are_named_by_what_varies() -> None:
    jobs = [[f"architecture={name}", "size=nano", f"seed={seed}"] for name in ("dense", "moe") for seed in (0, 1)]
    architectures = ["dense", "dense", "moe", "moe"]
    assert job_names(architectures, jobs) == ["dense s0", "dense s1", "moe s0", "moe s1"]
    rates = [["optimizer.learning_rate=0.001", f"size={size}", "seed=1000"] for size in ("nano", "micro")]
    rates += [["optimizer.learning_rate=0.002", "size=nano", "seed=1000"]]
    assert job_names(["dense"] * 3, rates) == [
        "dense lr=0.001 nano s1000", "dense lr=0.001 micro s1000", "dense lr=0.002 nano s1000",
    ]  # fmt: skip
    texts = [[f"data.dir={name}", "data.dir='/same'"] for name in ("a", "b")]
    assert len({*job_names(["dense"] * 2, texts)}) == 2
