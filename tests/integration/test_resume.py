"""Runs that are stopped by signals resume bit-identically when their command is repeated."""

import os
import signal
from pathlib import Path

import pytest

from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.integration.torture import differences

STEPS = 16
SETTINGS = (f"training.max_steps={STEPS}", "training.checkpoint_every=4", "training.eval_every=8")
CASES = [
    ("moe", "lean"),
    *(
        pytest.param(architecture, memory, marks=pytest.mark.slow)
        for architecture, memory in (
            *((name, "full") for name in ("dense", "mamba", "moe", "hybrid")),
            ("hybrid", "lean"),
        )
    ),
]
"""Architectures and values of `training.memory`."""


def start_and_signal(arguments: list[str], root: Path, number: int, after_step: int) -> tuple[int, str, str]:
    """Start a run, send a signal when `after_step` is logged, and return exit status and output."""
    process = tiny.start(arguments)
    tiny.wait_for_step(root, after_step, process)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize(("architecture", "memory"), CASES)
def test_a_stopped_and_killed_run_resumes_bit_identically(
    architecture: str, memory: str, data: Path, tmp_path: Path
) -> None:
    uninterrupted, interrupted = tmp_path / "whole", tmp_path / "broken"
    more = ("stage=full", f"architecture={architecture}", f"training.memory={memory}", *SETTINGS)
    assert tiny.run(data, uninterrupted, *more) == 0
    arguments = tiny.command_line(data, interrupted, *more)

    code, out, err = start_and_signal(arguments, interrupted, signal.SIGTERM, after_step=2)
    folder = tiny.only_run(interrupted)
    assert code == 143, err
    assert err == f"Stopped by SIGTERM; the same command goes on: {folder}\n"
    summary = read_json(folder / "summary.json")
    assert (summary["status"], summary["error"]) == ("interrupted", "stopped by SIGTERM")

    code, out, err = start_and_signal(arguments, interrupted, signal.SIGKILL, after_step=9)
    assert code == -signal.SIGKILL and "Resuming stage language after step" in out
    assert read_json(folder / "summary.json")["status"] == "running"
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as handle:
        handle.write('{"stage": "language", "st')  # the incomplete line of a killed process

    assert tiny.run(data, interrupted, *more) == 0
    assert differences(tiny.only_run(uninterrupted), folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 138)])
def test_other_signals_save_a_checkpoint_and_later_damage_is_a_one_line_error(
    number: int, code: int, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = (*SETTINGS, "training.checkpoint_every=1000")
    exit_code, _, err = start_and_signal(tiny.command_line(data, tmp_path, *more), tmp_path, number, after_step=2)
    assert exit_code == code
    assert err.splitlines()[-1].startswith(f"Stopped by {signal.Signals(number).name}; the same command goes on: ")
    last = tiny.only_run(tmp_path) / "checkpoints" / "language" / "last"
    assert 2 <= read_json(last / "meta.json")["progress"]["step"] < STEPS  # saved although no checkpoint was due

    (last / "state.pt").write_bytes(b"garbage")
    assert tiny.run(data, tmp_path, *more) == 2
    output = capsys.readouterr()
    assert output.err.startswith(f"error: {last / 'state.pt'}: damaged: its SHA-256") and output.err.count("\n") == 1
    assert read_json(tiny.only_run(tmp_path) / "summary.json")["status"] == "failed"
    assert tiny.run(data, tmp_path, *more, "rerun=true") == 0


@pytest.mark.slow
def test_a_second_process_on_a_run_is_an_error(data: Path, tmp_path: Path) -> None:
    arguments = tiny.command_line(data, tmp_path, *SETTINGS)
    both = [tiny.start(arguments), tiny.start(arguments)]
    ended = [(process.communicate(timeout=120), process.returncode) for process in both]
    codes = sorted(code for _, code in ended)
    errors = [err for (_, err), code in ended if code == 2]
    assert codes in ([0, 2], [0, 0])  # the second may start after the first has finished
    assert all("another process is training this run" in err and err.count("\n") == 1 for err in errors)
    assert tiny.read_rows(tiny.only_run(tmp_path))[-1]["step"] == STEPS
