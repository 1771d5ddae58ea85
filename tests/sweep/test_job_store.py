"""The job records of a sweep and the process of one job: its end is recorded and reported in one line."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import SweepConfig
from src.runtime.atomic_files import read_json
from src.sweep import job_process, job_store
from src.sweep.job_process import run_job
from src.sweep.job_store import Job, JobStore, attempt_seconds
from tests.summaries import write_summary

Child = Callable[[str], list[list[str]]]


def job(number: int = 0) -> Job:
    run = f"dense-nano-language-s{number}-0000000{number}"
    return Job(run, f"../../runs/{run}", [f"seed={number}"], "dense", "nano", "modern", "language", "local", number)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    opened = JobStore(tmp_path / "sweeps" / "s-00000000")
    opened.open("s", [job(0), job(1)])
    return opened


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    """Replace the training process by a line of Python, and record the started commands."""
    true_popen: Any = subprocess.Popen

    def replace(code: str) -> list[list[str]]:
        started: list[list[str]] = []

        def start(command: list[str], **options: Any) -> Any:
            started.append(command)
            return true_popen([sys.executable, "-c", code], **options)

        monkeypatch.setattr(job_process.subprocess, "Popen", start)
        return started

    return replace


def record(store: JobStore, number: int = 0) -> dict[str, Any]:
    values = read_json(store.folder / "jobs" / f"{job(number).run}.json")
    return {key: values[key] for key in ("status", "exit_code", "error")}


def finish_run(store: JobStore, number: int, status: str = "done", error: str | None = None) -> None:
    write_summary(store.folder / job(number).run_dir, status=status, error=error)


def test_a_job_that_was_never_started_is_pending(store: JobStore) -> None:
    assert store.states() == {job(0).run: "pending", job(1).run: "pending"}
    assert store.jobs() == [job(0), job(1)]


def test_a_job_is_a_subprocess_with_its_overrides(store: JobStore, child: Child) -> None:
    started = child("pass")
    assert run_job(store, job(0), SweepConfig()) == 0
    assert record(store)["status"] == "failed"  # its exit status is 0, but there is no finished run
    assert started == [[sys.executable, "-m", "src.train", "seed=0"]]


@pytest.mark.parametrize(
    ("code", "exit_code", "status", "error"),
    [
        ("raise SystemExit(3)", 3, "failed", "exit status 3"),
        ("import os; os.kill(os.getpid(), 9)", -9, "failed", "killed by SIGKILL (out of memory?)"),
        ("import os; os.kill(os.getpid(), 11)", -11, "failed", "killed by SIGSEGV"),
        ("raise SystemExit(130)", 130, "interrupted", "stopped by SIGINT"),
        ("raise SystemExit(143)", 143, "interrupted", "stopped by SIGTERM"),
        ("raise SystemExit(138)", 138, "interrupted", "stopped by SIGUSR1"),
        # Stopped while it starts, before it handles signals.
        ("import os; os.kill(os.getpid(), 15)", -15, "interrupted", "stopped by SIGTERM"),
    ],
)
def test_the_end_of_a_process_is_recorded(
    code: str, exit_code: int, status: str, error: str, store: JobStore, child: Child
) -> None:
    child(code)
    assert run_job(store, job(0), SweepConfig()) == exit_code
    assert record(store) == {"status": status, "exit_code": exit_code, "error": error}
    assert store.states() == {job(0).run: status, job(1).run: "pending"}


def test_the_error_of_a_failed_job_is_that_of_its_summary(store: JobStore, child: Child) -> None:
    finish_run(store, 0, "failed", "RuntimeError: the device is on fire")
    child("raise SystemExit(1)")
    assert run_job(store, job(0), SweepConfig()) == 1
    assert record(store)["error"] == "RuntimeError: the device is on fire"


def test_an_old_error_in_the_summary_is_not_reported_for_a_later_process(store: JobStore, child: Child) -> None:
    finish_run(store, 0, "interrupted", "stopped by SIGTERM")
    child("raise SystemExit(2)")
    assert run_job(store, job(0), SweepConfig()) == 2
    assert record(store)["error"] == "exit status 2"


def test_the_last_line_of_a_process_is_its_error_without_a_summary(
    store: JobStore, child: Child, capsys: pytest.CaptureFixture[str]
) -> None:
    child("print('here'); import sys; sys.exit('error: seed=x: must be a number')")
    assert run_job(store, job(0), SweepConfig(live=False)) == 1
    assert record(store)["error"] == "error: seed=x: must be a number"
    assert "here" in capsys.readouterr().out
    assert run_job(store, job(0), SweepConfig(live=True)) == 1
    assert not capsys.readouterr().out and "here" in store.log_of(job(0)).read_text()


def test_a_job_over_its_timeout_is_terminated_and_then_killed(
    store: JobStore, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SweepConfig(timeout=0.5)
    child("import signal, sys, time; signal.signal(15, lambda *_: sys.exit(143)); time.sleep(60)")
    assert run_job(store, job(0), config) == 1, "no reason to end the sweep, as a signal from outside is"
    assert record(store) == {"status": "failed", "exit_code": 143, "error": "took more than sweep.timeout=0.5 s"}
    monkeypatch.setattr(job_process, "GRACE_S", 0.2)
    child("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
    assert run_job(store, job(0), config) == -9
    assert record(store)["error"] == "took more than sweep.timeout=0.5 s"


def test_a_failed_job_is_retried_and_a_stopped_one_is_not(store: JobStore, child: Child) -> None:
    started = child("raise SystemExit(3)")
    assert run_job(store, job(0), SweepConfig(retries=2), start_over=True) == 3
    assert [command[3:] for command in started] == [["seed=0"], *[["seed=0", "rerun=false"]] * 2]
    started = child("raise SystemExit(143)")
    assert run_job(store, job(0), SweepConfig(retries=2)) == 143
    assert len(started) == 1


def test_only_failures_since_the_last_start_count(store: JobStore) -> None:
    store.record(job(0), "failed", 1)
    assert store.has_failed()
    store.open("s", store.jobs())
    assert not store.has_failed() and store.status(job(0)) == "failed"


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_a_failure_counts_whatever_the_clock_of_its_host(
    skew: float, store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + skew)
    store.record(job(0), "running")
    assert (attempt_seconds(store.entry(job(0)), real()) or 0.0) >= 0
    store.record(job(0), "failed", 1)
    assert store.has_failed()
    store.open("s", store.jobs())
    assert not store.has_failed()


@pytest.mark.parametrize("start_over", [False, True])
def test_a_run_that_is_done_is_started_only_to_start_over(start_over: bool, store: JobStore, child: Child) -> None:
    finish_run(store, 0)
    started = child("pass")
    assert run_job(store, job(0), SweepConfig(), start_over) == 0
    assert len(started) == start_over
    assert record(store) == {"status": "done", "exit_code": 0, "error": None}


def test_a_job_whose_run_was_removed_is_pending_again(store: JobStore) -> None:
    store.record(job(0), "done", 0)
    assert store.states()[job(0).run] == "pending"


def test_a_run_finished_outside_the_sweep_is_done(store: JobStore) -> None:
    store.record(job(0), "failed", 1, "RuntimeError")
    finish_run(store, 0)
    assert store.states()[job(0).run] == "done"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_of_a_scheduler_are_forwarded_to_the_job(
    number: int, store: JobStore, child: Child, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    child(
        "import pathlib, signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(128 + {int(number)}))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(30)"
    )
    before = signal.getsignal(number)

    def send() -> None:
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    assert run_job(store, job(0), SweepConfig()) == 128 + number
    sender.join()
    assert signal.getsignal(number) is before
    assert record(store)["exit_code"] == 128 + number
    assert record(store)["status"] == "interrupted"


def test_a_file_is_read_again_only_if_it_has_changed(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for name in ("read_summary", "find_record", "read_record"):
        original: Any = getattr(job_store, name)

        def count(*arguments: Any, name: str = name, original: Any = original) -> Any:
            read.append(name)
            return original(*arguments)

        monkeypatch.setattr(job_store, name, count)
    finish_run(store, 0, "running")
    first = store.jobs(), store.names(), store.states()
    read.clear()
    assert (store.jobs(), store.names(), store.states()) == first and read == []
    finish_run(store, 0)
    assert store.states()[job(0).run] == "done" and read == ["read_summary"]
    store.record(job(1), "failed", 1)
    assert store.states()[job(1).run] == "failed" and read == ["read_summary", "find_record"]
    store.open("s", [job(1)])
    assert [each.run for each in store.jobs()] == list(store.states()) == [job(1).run]
