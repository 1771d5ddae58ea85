"""Random command lines end with a correct status; `make torture` runs thousands of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.schema import ROOT
from tests.integration import tiny
from tests.torture.command_lines import Line, find_fault, run_line


@pytest.mark.slow
@pytest.mark.parametrize("n", [60, 300])
def test_random_command_lines(n: int, tmp_path: Path, data: Path) -> None:
    assert tiny.run(data, tmp_path / "outputs", "training.max_steps=2", "evaluation.enabled=false") == 0
    result = subprocess.run(
        [sys.executable, "-m", "tests.torture.command_lines", str(n), "0", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout.startswith(f"{n} command lines: ") and result.returncode == 0, result.stdout + result.stderr


def test_the_harness_detects_faults(tmp_path: Path) -> None:
    assert find_fault(2, "error: a=b: must be c\n", timed_out=False) is None
    assert find_fault(0, "", timed_out=False) is None
    assert find_fault(1, "", timed_out=False) == "status 1"
    assert find_fault(2, "", timed_out=False) == "not one clean line"
    assert find_fault(2, "error: a\x1b[31m\n", timed_out=False) == "not one clean line"
    assert find_fault(0, "\nSILENT: a=b", timed_out=False) == "silent acceptance"
    assert find_fault(-11, "", timed_out=False) == "died of signal 11"
    assert find_fault(0, "", timed_out=True) == "too late"
    assert find_fault(1, "Traceback (most recent call last):\n", timed_out=False) == "traceback"
    assert run_line(Line("generate", ["run=nowhere"], None), tmp_path).status == 2
