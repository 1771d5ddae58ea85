"""Several processes that torchrun starts end as one process would."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from src.config.schema import ROOT
from src.runtime.torchrun import exit_status, torchrun_command


@pytest.mark.parametrize(
    ("exit_codes", "expected"),
    [
        ([2, 2], 2),
        ([1, -9, 1], 137),
        ([143, 143], 143),
        ([1, 143], 1),
        ([-11], 139),
        ([-15, -9], 137),
        ([143, 2], 2),
        ([-15, 143], 143),
    ],
)
def test_the_exit_status_is_that_of_a_killed_process_or_of_the_lowest_rank(
    exit_codes: list[int], expected: int
) -> None:
    assert exit_status(exit_codes) == expected


def start(what: str, **environment: str) -> "subprocess.Popen[str]":
    command = [*torchrun_command("--standalone", "--nproc-per-node", "2"), "tests.runtime.torchrun_worker", what]
    environment = {**os.environ, **environment}
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
@pytest.mark.parametrize(("what", "expected"), [("done", 0), ("invalid", 2), ("killed", 128 + signal.SIGKILL)])
def test_processes_and_torchrun_end_alike_and_leave_no_files(what: str, expected: int, tmp_path: Path) -> None:
    process = start(what, TMPDIR=str(tmp_path))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (expected, ""), "no report of torchrun"
    assert not list(tmp_path.iterdir())
    if what == "done":  # otherwise torchrun may end one process before it prints
        assert sorted(out.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_stop_signal_reaches_the_processes(number: signal.Signals) -> None:
    process = start("wait")
    assert process.stdout is not None
    assert sorted(process.stdout.readline() for _ in range(2)) == ["rank 0 of 2\n", "rank 1 of 2\n"]
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + number, "")


@pytest.mark.slow
def test_a_rendezvous_that_fails_ends_with_one_line() -> None:
    options = ("--nnodes", "2", "--node-rank", "1", "--nproc-per-node", "1", "--master-addr", "127.0.0.1")
    command = torchrun_command(*options, "--master-port", "1", "--rdzv-conf", "timeout=2")
    done = subprocess.run(
        [*command, "tests.runtime.torchrun_worker", "done"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    *above, line = done.stderr.splitlines()
    assert line.startswith("error: torchrun: the processes cannot be started (")
    assert not any("Traceback" in each for each in above), "C++ prints to standard error by itself, Python does not"
