"""Damaged files are named in one line, and killed commands end as if nothing had happened; `make torture` does more."""

import subprocess
import sys

from src.config.schema import ROOT


def test_damaged_files_and_killed_commands() -> None:
    command = [sys.executable, "-m", "tests.torture", "48", "9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    damages, kills = done.stdout.splitlines()
    assert damages.startswith("damaged files: ") and " well" in damages
    assert kills.startswith("kills: ") and " well" in kills
