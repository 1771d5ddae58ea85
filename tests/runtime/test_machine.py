"""What torch finds in the environment when it is imported."""

import os
import subprocess
import sys

import pytest

from src.config import ROOT
from src.runtime.machine import SPINS

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
    [({}, str(SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["nothing", "another count", "a policy"],
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(given: dict[str, str], found: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=ROOT, env=environment | given, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, found), done.stderr
