"""Sweeps with real subprocesses: every job is finished or reported as failed, and a repeated command runs the rest."""

import csv
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import LauncherConfig
from src.runs.planning import plan_runs
from src.runtime.atomic_files import file_lock, read_json
from src.sweep import job_process
from src.sweep.job_resources import JobResources, threads_per_job
from src.sweep.launch import open_sweep
from tests.integration import tiny

ONE_STEP = ("training.max_steps=1", "stage.stages.language.prompts=[]")


def watch_jobs(monkeypatch: pytest.MonkeyPatch, replacement: str | None = None, only: str = "seed=") -> list[str]:
    """Record the seed of every started job; replace the command of jobs with a given setting."""
    true_popen: Any = subprocess.Popen
    seeds: list[str] = []

    def start(command: list[str], **options: Any) -> Any:
        seeds.append(next(item for item in command if item.startswith("seed=")))
        return true_popen(["sh", "-c", replacement] if replacement and only in seeds[-1] else command, **options)

    monkeypatch.setattr(job_process.subprocess, "Popen", start)
    return seeds


def sweep(data: Path, root: Path, *more: str) -> int:
    return tiny.train_main(["-m", *tiny.command_line(data, root, *more)])


def only_sweep(root: Path) -> Path:
    (folder,) = (root / "sweeps").iterdir()
    return folder


def read_report(root: Path) -> dict[str, dict[str, str]]:
    with (only_sweep(root) / "report" / "summary.csv").open(encoding="utf-8", newline="") as handle:
        return {row["run"]: row for row in csv.DictReader(handle)}


def read_job_records(root: Path) -> list[dict[str, Any]]:
    return [read_json(path) for path in sorted((only_sweep(root) / "jobs").glob("*.json"))]


@pytest.mark.slow
def test_a_failed_job_is_reported_and_only_it_is_repeated(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Three commands: a sweep whose first job fails, the same without a failure, the same when all jobs are done."""
    command, started = (data, tmp_path, "seed=0,1", *ONE_STEP), watch_jobs(monkeypatch)
    run = tiny.plan(data, tmp_path, "seed=0", *ONE_STEP).folder.name
    failing = tmp_path / "runs" / run / "checkpoints" / "language" / "last"
    failing.mkdir(parents=True)
    (failing / "meta.json").write_text("garbage")

    assert sweep(*command) == 1
    assert started == ["seed=0", "seed=1"]
    out = capfd.readouterr().out
    folder = only_sweep(tmp_path)
    assert f"Sweep: 2 jobs, {folder}" in out and f"[1/2] {run}" in out
    assert "1 of 2 jobs not done; the same command goes on with them" in out
    assert out.strip().splitlines()[-1].startswith(f"Report: {folder / 'report'}")
    assert [record["status"] for record in read_job_records(tmp_path)] == ["failed", "done"]
    rows = read_report(tmp_path)
    assert [rows[name]["status"] for name in sorted(rows)] == ["failed", "done"]
    assert "meta.json: not a JSON file" in rows[run]["error"]
    assert "not a JSON file" in (folder / "report" / "summary.md").read_text(encoding="utf-8")

    (failing / "meta.json").unlink()
    started.clear()
    assert sweep(*command) == 0
    assert started == ["seed=0"]
    assert {row["status"] for row in read_report(tmp_path).values()} == {"done"}

    started.clear()
    capfd.readouterr()
    assert sweep(*command) == 0
    assert started == []
    assert "jobs not done" not in capfd.readouterr().out
    for name in ("report.html", "summary.md", "summary.csv"):
        assert (folder / "report" / name).stat().st_size > 0
    assert list((folder / "report" / "figures").glob("*.png"))
    jobs = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["jobs"]
    assert [job["seed"] for job in jobs] == [0, 1]
    assert all((folder / job["run_dir"] / "summary.json").exists() for job in jobs)


@pytest.mark.slow
def test_ctrl_c_stops_a_sweep_and_the_same_command_resumes_it(data: Path, tmp_path: Path) -> None:
    more = ("seed=0,1", "training.max_steps=2000", "stage.stages.language.prompts=[]", "training.checkpoint_every=500")
    process = tiny.start(["-m", *tiny.command_line(data, tmp_path, *more)])
    tiny.wait_for_step(tmp_path, 2, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to parent and child
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "2 of 2 jobs not done; the same command goes on with them" in out
    (record,) = read_job_records(tmp_path)
    assert (record["status"], record["error"]) == ("interrupted", "stopped by SIGINT")
    assert sorted(row["status"] for row in read_report(tmp_path).values()) == ["interrupted", "pending"]


@pytest.mark.slow
def test_a_killed_job_does_not_affect_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    watch_jobs(monkeypatch, "kill -9 $$", only="seed=0")
    assert sweep(data, tmp_path, "seed=0,1", *ONE_STEP) == 1
    records = read_job_records(tmp_path)
    assert [record["status"] for record in records] == ["failed", "done"]
    assert records[0]["error"] == "killed by SIGKILL (out of memory?)"
    assert [row["error"] for row in read_report(tmp_path).values()] == ["killed by SIGKILL (out of memory?)", ""]


@pytest.mark.slow
def test_an_experiment_needs_no_flag_and_the_command_line_selects_a_part(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    watch_jobs(monkeypatch, "true")
    command = tiny.command_line(data, tmp_path, "+experiment=demo", "architecture=dense,hybrid", "seed=range(0,2)")
    assert tiny.train_main(command) == 1  # nothing was trained
    jobs = read_json(only_sweep(tmp_path) / "sweep.json")["jobs"]
    assert only_sweep(tmp_path).name.startswith("demo-")
    assert [(job["architecture"], job["seed"]) for job in jobs] == [
        ("dense", 0), ("dense", 1), ("hybrid", 0), ("hybrid", 1),
    ]  # fmt: skip
    assert {job["stage"] for job in jobs} == {"full"}
    assert "4 of 4 jobs not done" in capfd.readouterr().out


def test_fail_fast_starts_no_further_job(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started = watch_jobs(monkeypatch, "false")
    command = (data, tmp_path, "seed=0,1,2", "sweep.fail_fast=true", "sweep.retries=1")
    for _ in range(2):
        assert sweep(*command) == 1
        assert started == ["seed=0", "seed=0"]
        assert sorted(row["status"] for row in read_report(tmp_path).values()) == ["failed", "pending", "pending"]
        started.clear()


@pytest.mark.slow
def test_a_sweep_running_in_another_process_is_an_error(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    watch_jobs(monkeypatch, "true")
    assert sweep(data, tmp_path, "seed=0,1") == 1
    capfd.readouterr()
    with file_lock(only_sweep(tmp_path) / ".lock"):
        assert sweep(data, tmp_path, "seed=0,1") == 2
    err = capfd.readouterr().err
    assert err == f"error: {only_sweep(tmp_path)}: this sweep is already running in another process\n"


@pytest.mark.slow
def test_all_architectures_train_both_stages_and_repeat(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = (data, tmp_path, "architecture=dense,mamba,moe,hybrid", "stage=full")
    assert sweep(*command) == 0
    rows = read_report(tmp_path)
    assert [row["architecture"] for row in rows.values()] == ["dense", "mamba", "moe", "hybrid"]
    assert {row["status"] for row in rows.values()} == {"done"}
    contracts = [read_json(path)["contract"] for path in tmp_path.glob("runs/*/summary.json")]
    assert all(contract == contracts[0] for contract in contracts)
    assert sweep(*command) == 0


@pytest.mark.slow
def test_joblib_runs_two_jobs_at_once(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    command = (data, tmp_path, "launcher=joblib", "seed=0,1,2", "training.max_steps=30")
    assert sweep(*command) == 0
    assert {record["status"] for record in read_job_records(tmp_path)} == {"done"}
    times: list[tuple[float, float]] = []
    for folder in (tmp_path / "runs").iterdir():
        end = (folder / "train.log").stat().st_mtime
        times.append((end - read_json(folder / "summary.json")["final"]["wall_time_s"], end))
    first, second, _ = sorted(times)
    assert second[0] < first[1], "the second began before the first was done"
    assert read_json(next(tmp_path.glob("runs/*/summary.json")))["contract"]["host_shared"] is True
    assert sweep(*command) == 0


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        (LauncherConfig("serial"), None),
        (LauncherConfig("joblib", n_jobs=3), 2),
        (LauncherConfig("joblib", n_jobs=99), 1),
        (LauncherConfig("slurm"), 5),
        (LauncherConfig("ray", cpus_per_job=4), 4),
    ],
)
def test_concurrent_jobs_divide_the_cores(
    launcher: LauncherConfig, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    assert threads_per_job(launcher) == expected


@pytest.mark.slow
def test_a_job_gets_its_number_of_threads(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    open_threads = [item for item in tiny.command_line(data, tmp_path, *ONE_STEP) if not item.startswith("runtime.thr")]
    (plan,) = plan_runs([open_threads])
    folder = tmp_path / "sweeps" / "by-hand"
    with open_sweep(folder, "by-hand", [plan], [open_threads]) as store:
        assert job_process.run_job(store, store.jobs()[0], plan.config.sweep, resources=JobResources(1)) == 0
    assert read_json(plan.folder / "summary.json")["contract"]["runtime.threads"] == 1
