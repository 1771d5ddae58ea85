"""`runtime.compile=true` in whole runs: tried once, told in a line, and kept for every later sitting."""

import os
from pathlib import Path

import pytest

from src.runs import runner
from src.runtime.atomic_files import read_json, read_yaml
from src.training import compilation
from tests.integration import tiny
from tests.integration.torture import differences


def decided(folder: Path) -> bool:
    """Return what the run says of compiling, everywhere the same."""
    found = read_yaml(folder / "config.yaml", "runtime")["runtime"]["compile"]
    assert read_json(folder / "summary.json")["contract"]["runtime.compile"] == found
    return found


@pytest.mark.slow
def test_without_a_compiler_a_run_logs_it_and_continues(data: Path, tmp_path: Path) -> None:
    plain, tried = tmp_path / "plain", tmp_path / "tried"
    assert tiny.run(data, plain, "training.max_steps=2") == 0
    nothing = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    process = tiny.start(tiny.command_line(data, tried, "training.max_steps=2", "runtime.compile=true"), env=nothing)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    (line,) = [line for line in out.splitlines() if "torch.compile" in line]
    assert line.startswith("torch.compile: it fails here (") and "No working C++ compiler" in line
    assert line.endswith("); going on without")
    assert not decided(tiny.only_run(tried))
    rows, plain_rows = (tiny.settled(tiny.only_run(root)) for root in (tried, plain))
    assert rows == plain_rows, "the trial has changed nothing"


@pytest.mark.slow
def test_a_resumed_compiled_run_ends_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    monkeypatch.setattr(compilation, "median_times", lambda actions, device, seconds: [2.0, 1.0])
    assert tiny.run(data, whole, "runtime.compile=true") == 0
    assert "torch.compile: 2.00 times as fast" in capsys.readouterr().out
    assert decided(tiny.only_run(whole))

    with monkeypatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert tiny.run(data, broken, "runtime.compile=true") == 130
    monkeypatch.setattr(runner, "compile_if_faster", None)  # there is no second trial

    def fail(*_: object) -> None:
        raise RuntimeError("no compiler")

    with monkeypatch.context() as patch:
        patch.setattr(compilation, "_pass", fail)
        assert tiny.run(data, broken, "runtime.compile=true") == 2
    assert "begun with runtime.compile=true, which fails here (no compiler)" in capsys.readouterr().err
    assert tiny.run(data, broken, "runtime.compile=true") == 0
    assert "Resuming stage language after step 2" in capsys.readouterr().out
    assert decided(tiny.only_run(broken))
    assert differences(tiny.only_run(whole), tiny.only_run(broken)) == []
