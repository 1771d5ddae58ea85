"""Runs with `runtime.compile=true`: one trial, one log line, and a decision that is kept on resume."""

import os
from pathlib import Path

import pytest

from src.runs import model_placement
from src.runtime.atomic_files import read_json, read_yaml
from src.training import compilation
from tests.integration import tiny
from tests.integration.torture import differences


def read_compile_decision(folder: Path) -> bool:
    """Return whether the run is compiled; config.yaml and summary.json have to agree."""
    decision = read_yaml(folder / "config.yaml", "runtime")["runtime"]["compile"]
    assert read_json(folder / "summary.json")["contract"]["runtime.compile"] == decision
    return decision


@pytest.mark.slow
def test_without_a_compiler_a_run_logs_it_and_continues(data: Path, tmp_path: Path) -> None:
    plain, tried = tmp_path / "plain", tmp_path / "tried"
    assert tiny.run(data, plain, "training.max_steps=2") == 0
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    process = tiny.start(
        tiny.command_line(data, tried, "training.max_steps=2", "runtime.compile=true"), env=environment
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    (line,) = [line for line in out.splitlines() if "torch.compile" in line]
    assert line.startswith("torch.compile: it fails here (") and "No working C++ compiler" in line
    assert line.endswith("); going on without")
    assert not read_compile_decision(tiny.only_run(tried))
    rows, plain_rows = (tiny.read_untimed_rows(tiny.only_run(root)) for root in (tried, plain))
    assert rows == plain_rows, "the trial has changed nothing"


@pytest.mark.slow
def test_a_resumed_compiled_run_gives_the_same_result(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uninterrupted, interrupted = tmp_path / "whole", tmp_path / "broken"
    monkeypatch.setattr(compilation, "median_times", lambda actions, device, seconds: [2.0, 1.0])
    assert tiny.run(data, uninterrupted, "runtime.compile=true") == 0
    assert "torch.compile: 2.00 times as fast" in capsys.readouterr().out
    assert read_compile_decision(tiny.only_run(uninterrupted))

    with monkeypatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert tiny.run(data, interrupted, "runtime.compile=true") == 130
    monkeypatch.setattr(model_placement, "compile_if_faster", None)  # no second trial is allowed

    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    with monkeypatch.context() as patch:
        patch.setattr(compilation, "run_pass", fail)
        assert tiny.run(data, interrupted, "runtime.compile=true") == 2
    assert "begun with runtime.compile=true, which fails here (no compiler)" in capsys.readouterr().err
    assert tiny.run(data, interrupted, "runtime.compile=true") == 0
    assert "Resuming stage language after step 2" in capsys.readouterr().out
    assert read_compile_decision(tiny.only_run(interrupted))
    assert differences(tiny.only_run(uninterrupted), tiny.only_run(interrupted)) == []
