"""The estimate of a model in shards against the allocators of two processes."""

import json
import subprocess

import pytest

from src.config.schema import ROOT
from src.runtime.torchrun import torchrun_command


@pytest.mark.slow
def test_the_memory_of_a_model_in_shards_is_near_the_estimate() -> None:
    """The allocator has buffers of the collectives too, which the estimate leaves out: 5 to 12% were measured."""
    command = [*torchrun_command("--standalone", "--nproc-per-node", "2"), "tests.profiling.sharded_peak"]
    done = subprocess.run([*command, "dense", "micro"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["held"] == pytest.approx(found["parts"]["weights"] + found["parts"]["optimizer"], rel=1e-3)
    assert len(found["measured"]) == 2
    for measured in found["measured"]:
        assert found["estimate"] <= measured * 1.02 and measured <= 1.2 * found["estimate"]
