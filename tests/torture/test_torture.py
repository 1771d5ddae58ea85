"""Damaged files are named in one line, and killed commands end as if nothing had happened; `make torture` does more."""

import subprocess
import sys

import pytest

from src.config.schema import ROOT


@pytest.mark.slow
def test_damaged_files_and_killed_commands() -> None:
    command = [sys.executable, "-m", "tests.torture", "48", "9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    damaged, killed = done.stdout.splitlines()
    assert damaged.startswith("damaged files: ") and " well" in damaged
    assert killed.startswith("kills: ") and " well" in killed
