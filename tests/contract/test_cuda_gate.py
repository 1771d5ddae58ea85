"""Checks on Linux for CUDA, which our test machines do not have: kernels, integers, and deterministic mode.

The traces are those of `test_mps_gate.py`.
"""

from collections.abc import Iterator

import pytest
import torch

from src.config.schema import RuntimeConfig
from src.model.build import build_model
from src.profiling.operator_trace import OperatorTrace, read_kernels
from src.runtime.device import open_device
from tests.contract.small import ARCHITECTURES, small_spec
from tests.contract.test_mps_gate import SHAPES_THAT_CHANGE, each_kind_once, stepper, traced_step, without

pytestmark = pytest.mark.usefixtures("without_cpu_kernels")

NONDETERMINISTIC = {"cumsum", "cumprod", "scatter_add", "scatter_add_", "histc", "put_", "median", "kthvalue"}
"""Operations on floats without a deterministic form on CUDA (torch.use_deterministic_algorithms lists them)."""
INT64 = set(
    # Tokens as indices, and targets in the loss.
    "embedding embedding_dense_backward gather index_add_ index_select where.ScalarSelf randint.generator "
    # Numbers of documents, and positions of a mask.
    "eq.Scalar cumsum eq.Tensor ne.Tensor cat constant_pad_nd arange add.Tensor sub.Tensor gt.Tensor le.Tensor "
    # Views.
    "narrow slice.Tensor split.Tensor unsqueeze view".split()
)
"""Operations that may have 64-bit integers: none of them is arithmetic on hidden states. The loss needs int64 targets.
Experts sort their tokens by such integers, too."""


@pytest.fixture
def deterministic() -> Iterator[None]:
    config = RuntimeConfig("cpu", "cpu", threads=torch.get_num_threads(), deterministic=True)
    open_device(config)
    yield
    config.deterministic = False
    open_device(config)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_operation_has_a_cuda_kernel(architecture: str, precision: str) -> None:
    trace = traced_step(build_model(each_kind_once(small_spec(architecture)), seed=0), "adamw", precision)
    kernels = read_kernels()
    assert [
        name for name in trace.ops if not any(k == "CUDA" or k.startswith("Composite") for k in kernels[name])
    ] == []


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_integers_are_indices_and_positions(architecture: str) -> None:
    spec = each_kind_once(small_spec(architecture))
    step = stepper(build_model(without(spec, SHAPES_THAT_CHANGE), seed=0), masked=True)
    with OperatorTrace() as trace:
        step(1)
    found = {name for name, *tensors in trace.signatures if any(dtype == torch.int64 for _, dtype in tensors)}
    assert {"embedding", "cumsum", "index_select"} <= found <= INT64


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_deterministic_steps(architecture: str) -> None:
    trace = traced_step(build_model(each_kind_once(small_spec(architecture)), seed=0))
    assert nondeterministic(trace) == set()


def test_mamba_without_deterministic_mode_is_detected() -> None:
    trace = traced_step(build_model(each_kind_once(small_spec("mamba")), seed=0))
    assert nondeterministic(trace) == {"cumsum"}


def nondeterministic(trace: OperatorTrace) -> set[str]:
    """Return the operations of `NONDETERMINISTIC` on floats."""
    floats = {name for name, *tensors in trace.signatures if any(dtype.is_floating_point for _, dtype in tensors)}
    return {name.partition(".")[0] for name in floats} & NONDETERMINISTIC
