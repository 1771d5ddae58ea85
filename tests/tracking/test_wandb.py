"""W&B never prompts, hangs or ends a run: without a key, with an invalid key or without network it is offline."""

import json
import os
import pty
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.errors import CommError, UsageError

from src.config.schema import ROOT, TrackingConfig, TrainConfig
from src.reporting import answer_lines, load_runs, verdict_lines, write_report
from src.runtime.atomic_files import read_json, reject_symlinks
from src.sweep.launch import track_comparison
from src.tracking import wandb as ours
from src.tracking.tracker import MultiTracker
from src.tracking.wandb import find_home, start
from tests.integration import tiny
from tests.reporting.conftest import SweepBuilder


def read_records(file: Path) -> list[dict[str, Any]]:
    """Read an offline file with W&B's own reader."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(file)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def offline_files(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*/*.wandb"))


def read_history(folder: Path) -> list[dict[str, Any]]:
    """Read the rows of the one offline file under a run directory."""
    (file,) = offline_files(folder)
    return [record["history"]["item"] for record in read_records(file) if record["type"] == "history"]


def read_summary(folder: Path) -> dict[str, Any]:
    """Read the summary of the only offline file."""
    found: dict[str, Any] = {}
    for record in read_records(offline_files(folder)[0]):
        found |= record.get("summary", {}).get("update", {})
    return found


@pytest.mark.slow
def test_without_a_key_a_run_is_offline_and_does_not_prompt(data: Path, tmp_path: Path) -> None:
    """In a pseudo-terminal, where W&B would prompt for a key and wait forever."""
    parent, terminal = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    environment |= {"NETRC": os.devnull, "HOME": str(tmp_path / "home"), "WANDB_ERROR_REPORTING": "false"}
    arguments = tiny.command_line(data, tmp_path, "tracking=wandb", "stage=full", "training.max_steps=2")
    process = tiny.start(arguments, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)
    os.close(terminal)
    seen = b""
    try:
        while part := os.read(parent, 4096):
            seen += part
    except OSError:  # Linux reports this when no process holds the terminal
        pass
    os.close(parent)
    assert process.wait(timeout=60) == 0, seen.decode()
    assert b"W&B: offline (upload later: wandb sync" in seen
    assert b"wandb.ai" not in seen and b"Enter your choice" not in seen

    folder = tiny.only_run(tmp_path)
    rows = read_history(folder)
    merged: dict[tuple[str, int], dict[str, Any]] = {}
    for row in tiny.read_rows(folder):  # here metrics and validation of a step are two rows, in W&B one
        merged.setdefault((row["stage"], row["step"]), {}).update(row)
    assert [row["_step"] for row in rows] == list(range(6))  # steps 0, 1, 2 of both stages
    for row, expected in zip(rows, merged.values(), strict=True):
        assert {key: row[key] for key in expected} == pytest.approx(expected)
    for row, stage in ((rows[2], "language"), (rows[5], "code")):
        (file,) = (folder / "wandb").glob(f"offline-run-*/files/{row[f'samples/{stage}.path']}")
        samples = read_json(folder / "samples" / f"{stage}.json")
        assert read_json(file)["data"] == [[sample["prompt"], sample["text"]] for sample in samples]
    final = read_json(folder / "summary.json")["final"]
    assert read_summary(folder)["final/val_loss"] == pytest.approx(final["val_loss"])


def test_wandb_mode_disabled_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert tiny.run(data, tmp_path, "tracking=wandb", "training.max_steps=1") == 0
    assert "W&B: disabled" in capsys.readouterr().out
    assert not list(tiny.only_run(tmp_path).glob("wandb/*run-*"))


@pytest.mark.slow
def test_an_invalid_key_without_network_does_not_fail_the_run(data: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    process = tiny.start(
        tiny.command_line(data, tmp_path, "tracking=wandb", "training.max_steps=2"),
        env={**os.environ, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"},
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "W&B: online failed" in out and "W&B: offline" in out
    assert time.monotonic() - started < 45
    assert len(read_history(tiny.only_run(tmp_path))) == 3


class FakeRun:
    def __init__(self) -> None:
        self.rows: list[tuple[dict[str, Any], int]] = []
        self.exit_code: int | None = None
        self.summary: dict[str, Any] = {}

    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((row, step))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def inits(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace wandb.init by a function that records its arguments."""
    calls: list[dict[str, Any]] = []

    def init(**arguments: Any) -> FakeRun:
        calls.append(arguments)
        return FakeRun()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return calls


@pytest.mark.parametrize(
    ("mode", "key", "variable", "expected"),
    [
        ("auto", "", None, "offline"),
        ("auto", "k", None, "online"),
        ("online", "", None, "online"),
        ("offline", "k", None, "offline"),
        ("auto", "k", "offline", "offline"),
        ("online", "k", "disabled", "disabled"),
    ],
)
def test_mode_of_wandb(
    mode: str, key: str, variable: str | None, expected: str, inits: list[dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_API_KEY", key)
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    start(TrackingConfig("wandb", ["wandb"], mode=mode), tmp_path, {}, lambda line: None, None)
    assert [call["mode"] for call in inits] == [expected]


def test_a_wandb_run_has_name_group_tags_and_settings(inits: list[dict[str, Any]], tmp_path: Path) -> None:
    config = TrackingConfig("wandb", ["wandb"], project="p", entity="e", mode="online", group="sweep-1", tags=["a"])
    start(config, tmp_path / "dense-nano-language-s0-01234567", {"seed": 0}, lambda line: None, "language")
    (call,) = inits
    expected = {"project": "p", "entity": "e", "group": "sweep-1", "tags": ["a"], "config": {"seed": 0}}
    assert {key: call[key] for key in expected} == expected
    assert call["name"] == call["id"] == "dense-nano-language-s0-01234567" and call["resume"] == "allow"
    assert call["settings"].init_timeout <= 10


@pytest.mark.parametrize("error", [UsageError("api_key not configured"), CommError("no route"), OSError("disk full")])
def test_a_failure_online_falls_back_to_offline_and_then_to_no_tracker(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, messages = {"online"}, list[str]()

    def init(**arguments: Any) -> FakeRun:
        if arguments["mode"] in broken:
            raise error
        return FakeRun()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "teardown", lambda: None)
    config = TrackingConfig("wandb", ["wandb"], mode="online")
    assert start(config, tmp_path, {}, messages.append, None) is not None
    assert messages[0] == f"W&B: online failed ({error})" and messages[1].startswith("W&B: offline (upload later")
    broken.add("offline")
    messages.clear()
    assert start(config, tmp_path, {}, messages.append, None) is None
    assert messages == [f"W&B: {mode} failed ({error})" for mode in ("online", "offline")]


def test_a_failure_during_the_run_is_logged_once_and_disables_that_tracker() -> None:
    class Failing(FakeRun):
        def log(self, row: dict[str, Any], step: int) -> None:
            raise CommError("the service is gone\nand more")

    messages = list[str]()
    other = FakeRun()
    trackers = MultiTracker({"wandb": ours.WandbTracker(Failing()), "other": ours.WandbTracker(other)}, messages.append)
    for step in range(3):
        trackers.log({}, step)
    trackers.finish(0)
    assert messages == ["wandb: disabled after an error (the service is gone)"]
    assert len(other.rows) == 3 and other.exit_code == 0


def test_the_tracker_receives_the_exit_code(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[FakeRun] = []

    def build(*_: Any) -> ours.WandbTracker:
        runs.append(FakeRun())
        return ours.WandbTracker(runs[-1])

    monkeypatch.setattr(ours, "start", build)
    tracked = ("training.max_steps=1", "tracking=wandb")
    with monkeypatch.context() as patch:
        tiny.break_step(patch, 0)
        with pytest.raises(RuntimeError, match="on fire"):
            tiny.run(data, tmp_path, *tracked)
    assert runs[0].exit_code == 1
    assert read_json(tiny.only_run(tmp_path) / "summary.json")["status"] == "failed"
    assert tiny.run(data, tmp_path, *tracked) == 0
    assert runs[1].exit_code == 0 and runs[1].summary["final/val_loss"] > 0
    assert [(row["stage"], step) for row, step in runs[1].rows if "stage" in row][-1] == ("language", 1)


def test_importing_the_tracker_does_not_import_wandb() -> None:
    code = "import sys, src.tracking.tracker, src.tracking.wandb; sys.exit('wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=60).returncode == 0


@pytest.mark.slow
def test_a_resumed_offline_run_has_the_same_wandb_id(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two files of one run: `wandb sync` joins them by their id, in the order of their start."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    arguments = ("tracking=wandb", "evaluation.enabled=false", "training.max_steps=6")
    with monkeypatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert tiny.run(data, tmp_path, *arguments) == 130
    time.sleep(1.1)  # W&B names its folders by the second
    assert tiny.run(data, tmp_path, *arguments) == 0
    files = offline_files(tiny.only_run(tmp_path))
    assert len(files) == 2 and len({file.name for file in files}) == 1, "the name of a file is its run's id"
    steps = [
        [record["history"]["item"]["_step"] for record in read_records(file) if record["type"] == "history"]
        for file in files
    ]
    assert steps[0] == [0, 1, 2] and steps[1] == [3, 4, 5, 6]


class RejectingServer(BaseHTTPRequestHandler):
    """A W&B server that rejects every key."""

    def answer(self) -> None:
        self.send_response(401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@pytest.mark.slow
def test_a_server_that_rejects_the_key_does_not_fail_the_run(data: Path, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), RejectingServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")} | {
            "WANDB_BASE_URL": f"http://127.0.0.1:{server.server_port}", "WANDB_API_KEY": "x" * 40,
        }  # fmt: skip
        started = time.monotonic()
        process = tiny.start(
            tiny.command_line(data, tmp_path, "tracking=wandb", "training.max_steps=2"), env=environment
        )
        out, err = process.communicate(timeout=120)
        server.shutdown()
    assert process.returncode == 0, out + err
    assert "W&B: online failed" in out and "W&B: offline" in out and time.monotonic() - started < 60
    assert read_history(tiny.only_run(tmp_path))


def test_a_home_is_found_without_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    assert Path(find_home(tmp_path)).is_absolute()

    def fail() -> Path:
        raise RuntimeError("no user")

    monkeypatch.setattr(Path, "home", fail)
    assert find_home(tmp_path) == str(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 1])
def test_the_answer_of_a_sweep_is_in_the_summary_of_a_run_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seeds: int
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    builder = SweepBuilder(tmp_path / "outputs")
    for architecture in ("dense", "mamba"):
        for seed in range(seeds):
            builder.add(architecture, seed)
    write_report(builder.sweep)
    tracking = TrackingConfig("wandb", trackers=["wandb"])
    track_comparison(TrainConfig(tracking=tracking), builder.sweep)
    summary, runs = read_summary(builder.sweep), load_runs(builder.sweep)
    assert summary["answer"] == "\n".join(answer_lines(runs)) != ""
    assert summary["verdict"] == "\n".join(verdict_lines(runs)) != ""
    (table,) = (builder.sweep / "wandb").glob("offline-run-*/files/media/table/comparison_*.table.json")
    values = json.loads(table.read_text())
    assert [
        record["artifact"]["type"] for record in read_records(offline_files(builder.sweep)[0]) if "artifact" in record
    ]
    assert values["columns"][0] == "architecture" and [row[0] for row in values["data"]][:2] == ["dense", "mamba"]
    (record,) = [each["run"] for each in read_records(offline_files(builder.sweep)[0]) if each["type"] == "run"]
    assert (record["display_name"], record["job_type"], record["run_group"]) == (
        builder.sweep.name, "comparison", builder.sweep.name,
    )  # fmt: skip
    assert "wandb sync" in capsys.readouterr().err
    reject_symlinks(builder.sweep, "wandb")


def test_without_wandb_nothing_of_it_is_written(tmp_path: Path) -> None:
    builder = SweepBuilder(tmp_path / "outputs")
    builder.add("dense")
    track_comparison(TrainConfig(tracking=TrackingConfig("none")), builder.sweep)
    assert not (builder.sweep / "wandb").exists()
