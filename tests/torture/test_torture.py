"""Damaged files are reported in one line, and killed commands resume cleanly; `make torture` runs more cases."""

import subprocess
import sys

import pytest

from src.config.schema import ROOT


@pytest.mark.slow
def test_damaged_files_and_killed_commands() -> None:
    command = [sys.executable, "-m", "tests.torture", "48", "9"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    damaged, killed = result.stdout.splitlines()
    assert damaged.startswith("damaged files: ") and " well" in damaged
    assert killed.startswith("kills: ") and " well" in killed
