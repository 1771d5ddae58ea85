"""Three hundred random command lines end as they should; `make torture` runs thousands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.schema import ROOT
from tests.integration import tiny
from tests.torture.command_lines import Line, fault_of, run_line


@pytest.mark.parametrize("n", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_random_command_lines(n: int, tmp_path: Path, data: Path) -> None:
    assert tiny.run(data, tmp_path / "outputs", "training.max_steps=2", "evaluation.enabled=false") == 0
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.command_lines", str(n), "0", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith(f"{n} command lines: ") and done.returncode == 0, done.stdout + done.stderr


def test_the_harness_detects_faults(tmp_path: Path) -> None:
    assert fault_of(2, "error: a=b: must be c\n", late=False) is None
    assert fault_of(0, "", late=False) is None
    assert fault_of(1, "", late=False) == "status 1"
    assert fault_of(2, "", late=False) == "not one clean line"
    assert fault_of(2, "error: a\x1b[31m\n", late=False) == "not one clean line"
    assert fault_of(0, "\nSILENT: a=b", late=False) == "silent acceptance"
    assert fault_of(-11, "", late=False) == "died of signal 11"
    assert fault_of(0, "", late=True) == "too late"
    assert fault_of(1, "Traceback (most recent call last):\n", late=False) == "traceback"
    assert run_line(Line("generate", ["run=nowhere"], None), tmp_path).status == 2
