"""The table of a sweep's jobs shows the state that their files record, even if files are incomplete."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from src.sweep.job_store import Job, JobStore
from src.sweep.progress_table import build_table, show_jobs
from tests.summaries import write_summary


def job(number: int) -> Job:
    stages = {"language": 1000, "code": 3000}
    return Job(f"r{number}", f"../../runs/r{number}", [], "dense", "nano", "modern", "full", "local", number, stages)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    opened = JobStore(tmp_path / "sweeps" / "sweep")
    opened.open("s", [job(number) for number in range(4)])
    return opened


def write_metrics(store: JobStore, number: int, *rows: dict[str, object], more: str = "") -> None:
    folder = store.folder / job(number).run_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + more)


def render_table(store: JobStore) -> str:
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(build_table(store))
    return console.export_text()


def render_row(store: JobStore, number: int) -> list[str]:
    line = next(line for line in render_table(store).splitlines() if f" r{number} " in line)
    return [cell.strip() for cell in line.strip("│┃ ").split("│")]


def test_a_branch_counts_the_tokens_that_it_trains_itself(tmp_path: Path) -> None:
    stages, shared = {"language": 1000, "part": 250}, {"language": 0, "part": 200}
    branched = Job("r0", "../../runs/r0", [], "dense", "nano", "modern", "b", "local", 0, stages, shared)
    opened = JobStore(tmp_path / "sweeps" / "sweep")
    opened.open("s", [branched])
    opened.record(branched, "running")
    write_metrics(opened, 0, {"stage": "part", "step": 9, "tokens": 325, "perf/tokens_per_second": 25.0})
    assert render_row(opened, 0) == ["r0", "running", "part", "90%", "-", "25", "5.0 s"]


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
    assert render_row(store, 0) == ["r0", "running", "code", "50%", "3.250", "40", "50 s"]
    assert render_row(store, 1) == ["r1", "failed: RuntimeError: fire", *["-"] * 5]
    assert render_row(store, 2)[1] == "done" and render_row(store, 3)[1] == "pending"
    assert "4 jobs: 1 done, 1 running, 1 failed, 1 pending" in render_table(store)


def test_partly_written_files_are_tolerated(store: JobStore) -> None:
    store.record(job(0), "running")
    for content in ("", "{", "[]\n", '{"stage": "other", "tokens": 1}\n', '{"stage": "code", "tokens": null}\n'):
        write_metrics(store, 0, more=content)
        assert render_row(store, 0)[1:] == ["running", *["-"] * 5]


def test_the_last_state_stays_on_the_screen(store: JobStore, capsys: pytest.CaptureFixture[str]) -> None:
    with show_jobs(store):
        write_summary(store.folder / job(0).run_dir)
    assert "1 done, 3 pending" in capsys.readouterr().out
