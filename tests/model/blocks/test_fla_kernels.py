"""The recurrences by flash-linear-attention against ours: its reference here, its kernels interpreted and on CUDA."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import find_spec

import pytest
import torch

from src.model.blocks.fla_kernels import is_fla_installed
from tests.contract.small import random_tokens, small_model
from tests.model.blocks import fla_cases
from tests.reference import fla as reference

RECURRENCES, MODELS = 6, 4
"""Cases of each comparison."""
TOLERANCE = 5e-5
"""Of a value relative to the largest. Measured in the interpreter: at most 1.2e-5, for signed transitions near 0."""


@pytest.fixture
def reference_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the reference implementations in the place of the library's functions."""
    reference.install(monkeypatch)


@pytest.mark.usefixtures("reference_library")
def test_adapter_equals_reference_implementations() -> None:
    assert_small(fla_cases.compare_recurrences("cpu"), RECURRENCES)


@pytest.mark.slow
@pytest.mark.usefixtures("reference_library")
def test_models_are_the_same() -> None:
    assert_small(fla_cases.compare_models("cpu"), MODELS)


@pytest.mark.usefixtures("reference_library")
@pytest.mark.parametrize("architecture", ["mamba", "gated_deltanet"])
def test_decoding_continues_from_the_state(architecture: str) -> None:
    """The cache is filled by the kernel; further tokens need none."""
    model, tokens = small_model(architecture), random_tokens(2, 40)
    model.uses_fla = True
    with torch.no_grad():
        expected = model(tokens).hidden
        cache = model.make_cache(2, 40)
        parts = [
            model(tokens[:, :37], cache).hidden,
            *(model(tokens[:, i : i + 1], cache).hidden for i in (37, 38, 39)),
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-5)


def test_only_blocks_with_such_a_kernel_use_it() -> None:
    model = small_model("hybrid")
    assert model.has_fla_kernel() and not model.uses_fla
    model.uses_fla = True
    kinds = {kind for kind, block in zip(model.spec.blocks, model.blocks, strict=True) if block.uses_fla}
    assert model.uses_fla and kinds == {"mamba"}
    assert not small_model("dense").has_fla_kernel() and not small_model("mamba1").has_fla_kernel()


@pytest.mark.slow
@pytest.mark.skipif(not (is_fla_installed() and find_spec("triton")), reason="needs the extra cuda, and triton")
def test_interpreted_kernels_equal_reference_implementations() -> None:
    command = [sys.executable, "-m", "tests.model.blocks.fla_cases"]
    done = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert_small(json.loads(done.stdout).items(), RECURRENCES)


@pytest.mark.cuda
@pytest.mark.skipif(not is_fla_installed(), reason="needs the extra cuda")
def test_kernels_on_cuda_equal_reference_implementations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TF32, as `runtime.tf32=false` has it."""
    monkeypatch.setenv("TRITON_F32_DEFAULT", "ieee")
    assert_small(fla_cases.compare_recurrences("cuda"), RECURRENCES)
    assert_small(fla_cases.compare_models("cuda"), MODELS)


def assert_small(cases: Iterable[tuple[str, float]], n: int) -> None:
    found = dict(cases)
    assert len(found) == n and max(found.values()) < TOLERANCE, found
