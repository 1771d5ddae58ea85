"""The OpenMP environment at torch's import, and the maker of the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from src.config.schema import ROOT
from src.runtime import host
from src.runtime.host import OMP_SPIN_COUNT, is_intel

CODE = """
import os, runpy, sys

class Torch:
    def find_spec(self, name, *more):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.stdout.flush()
            os._exit(0)

sys.meta_path.insert(0, Torch())
sys.argv = ["doctor"]
runpy.run_module("src.doctor", run_name="__main__")
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, str(OMP_SPIN_COUNT)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["nothing", "another count", "a policy"],
)
def test_omp_spin_is_limited_unless_the_user_sets_it(given: dict[str, str], found: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env=environment | given, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, found), done.stderr


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nvendor_id\t: GenuineIntel\n", True),
        ("processor\t: 0\nvendor_id\t: AuthenticAMD\n", False),
        (None, False),
    ],
)
def test_an_intel_cpu_is_detected(
    text: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc/cpuinfo, as on a Mac, the answer is False."""
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(host, "CPU_INFO", path)
    assert is_intel() == expected
