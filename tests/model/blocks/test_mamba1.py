"""The chunked scan and the block against their reference implementations and transformers' Mamba."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from src.model.blocks.mamba1.module import Mamba1, scan, selective_scan
from tests.contract.small import small_spec
from tests.reference.documents import packed_ids, scan_separately
from tests.reference.mamba1 import reference_mamba1, sequential_scan

NAMES = ("x", "dt", "a", "b", "c", "state")
INNER, N_STATE = 6, 5
WIDTH = 64


def scan_inputs(length: int, low: float, high: float, seed: int = 0) -> list[Tensor]:
    """Draw x, dt (log-uniform from low to high), a (down to -16), b, c and an initial state."""
    torch.manual_seed(seed)
    dt = torch.exp(torch.rand(2, length, INNER) * math.log(high / low) + math.log(low))
    x, b, c = (torch.randn(2, length, width) for width in (INNER, N_STATE, N_STATE))
    a = -torch.exp(torch.rand(INNER, N_STATE) * math.log(16))
    return [x, dt, a, b, c, torch.randn(2, INNER, N_STATE)]


def with_gradients(function: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> dict[str, Tensor]:
    """Return y, the last state, and the gradients of a random projection of both together, by name."""
    inputs = [part.clone().requires_grad_() for part in inputs]
    y, state = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    projected = [(part * torch.randn(part.shape, generator=generator)).sum() for part in (y, state)]
    gradients = torch.autograd.grad(projected[0] + projected[1], inputs)
    names = [f"d{name}" for name in NAMES]
    return {"y": y.detach(), "last state": state.detach(), **dict(zip(names, gradients, strict=True))}


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Return the largest difference of each, relative to the largest expected value."""
    assert all(part.isfinite().all() for part in found.values())
    return {name: float((found[name] - wanted[name]).abs().max() / wanted[name].abs().max()) for name in wanted}


def chunked(size: int) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda x, dt, a, b, c, state: selective_scan(x, dt, a, b, c, size, state)


@pytest.mark.parametrize("chunk", [1, 7, 16, 100])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100])
def test_chunks_equal_reference_implementation(length: int, chunk: int) -> None:
    inputs = scan_inputs(length, 1e-3, 1e-1)
    found, wanted = with_gradients(chunked(chunk), inputs), with_gradients(sequential_scan, inputs)
    assert max(errors(found, wanted).values()) < 2e-6, errors(found, wanted)


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.1e-4), (1e-4, 1.0), (1e-4, 10.0), (9.9, 10.0), (50.0, 500.0)])
def test_any_decay(low: float, high: float) -> None:
    """A down to -16 and dt up to 500 decay completely within a step: nothing overflows or becomes NaN."""
    inputs = scan_inputs(200, low, high)
    found, wanted = with_gradients(chunked(16), inputs), with_gradients(sequential_scan, inputs)
    if low < 50:
        assert max(errors(found, wanted).values()) < 1e-5, errors(found, wanted)
    else:  # exp(-50) and less: the gradients of A and of the first state are only rounding errors
        for name in ("y", "last state", "dx", "ddt", "db", "dc"):
            assert errors(found, wanted)[name] < 1e-5, name


@pytest.mark.slow
def test_gradients_equal_finite_differences() -> None:
    """In float64, over two chunks and a part of one."""
    inputs = [part.double().requires_grad_() for part in scan_inputs(11, 1e-2, 1.0)]
    assert torch.autograd.gradcheck(chunked(4), inputs)


def test_unused_output() -> None:
    inputs = [part.requires_grad_() for part in scan_inputs(20, 1e-2, 1.0)]
    for unused in (0, 1):
        found = torch.autograd.grad(chunked(8)(*inputs)[1 - unused].sum(), inputs, allow_unused=True)
        wanted = torch.autograd.grad(sequential_scan(*inputs)[1 - unused].sum(), inputs, allow_unused=True)
        for name, one, other in zip(NAMES, found, wanted, strict=True):
            assert one is not None
            torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, msg=name)


@pytest.mark.parametrize("high", [1e-1, 10.0])
@pytest.mark.parametrize("chunk", [1, 7, 16, 100])
def test_documents_begin_with_zero_state(chunk: int, high: float) -> None:
    """Documents start within a chunk or at its start, several or a part of one in a chunk; the first has a state."""
    lengths = (5, 2, 9, 1, 40, 7)
    inputs = scan_inputs(sum(lengths), 1e-3, high)
    documents = packed_ids(lengths, 2)

    def masked(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return selective_scan(x, dt, a, b, c, chunk, state, documents)

    reference = scan_separately(sequential_scan, lengths)
    found, wanted = with_gradients(masked, inputs), with_gradients(reference, inputs)
    assert max(errors(found, wanted).values()) < 1e-5, errors(found, wanted)


def test_no_state_equals_zero_state() -> None:
    *inputs, state = scan_inputs(20, 1e-3, 1e-1)
    y, last = selective_scan(*inputs, chunk=8)
    zeroed, zeroed_last = selective_scan(*inputs, chunk=8, state=torch.zeros_like(state))
    assert torch.equal(y, zeroed) and torch.equal(last, zeroed_last)


@pytest.mark.parametrize("cut", [1, 8, 13, 39])
def test_sequence_can_be_split_anywhere(cut: int) -> None:
    x, dt, a, b, c, state = scan_inputs(40, 1e-3, 1.0)
    kept = state.clone()
    whole, last = selective_scan(x, dt, a, b, c, 8, state)
    first, between = selective_scan(x[:, :cut], dt[:, :cut], a, b[:, :cut], c[:, :cut], 8, state)
    second, end = selective_scan(x[:, cut:], dt[:, cut:], a, b[:, cut:], c[:, cut:], 8, between)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(end, last, rtol=1e-5, atol=1e-6)
    assert torch.equal(state, kept), "the caller's state is unchanged"


@pytest.mark.parametrize("begins", [None, packed_ids((3, 1, 7), 2) > 0])
def test_custom_operations_match_their_schemas(begins: Tensor | None) -> None:
    """Shapes and strides, and no input is changed; over two chunks and a part of one."""
    x, dt, a, b, c, state = scan_inputs(11, 1e-2, 1.0)
    x = x.transpose(1, 2).contiguous().transpose(1, 2)  # as the convolution leaves it
    y, last, starts = scan(x, dt, a, b, c, state, begins, 4)
    operations = torch.ops.advanced_code_model
    checks = ("test_schema", "test_faketensor")
    forward = (x, dt, a, b, c, state, begins, 4)
    torch.library.opcheck(operations.scan.default, forward, test_utils=checks)
    backward = (y, last, x, dt, a, b, c, starts, begins, 4)
    torch.library.opcheck(operations.scan_backward.default, backward, test_utils=checks)


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest result of an operation."""

    n_elements = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, list | tuple) else [result]:
            if isinstance(part, Tensor):
                self.n_elements = max(self.n_elements, part.untyped_storage().nbytes() // part.element_size())
        return result


def test_only_the_states_of_one_chunk_are_allocated() -> None:
    inputs = [part.requires_grad_() for part in scan_inputs(256, 1e-3, 1e-1)]
    with LargestTensor() as largest:
        y, _ = chunked(8)(*inputs)
        y.sum().backward()
    assert largest.n_elements == max(8 * 2 * INNER * N_STATE, 256 * 2 * INNER)


def build_block(**changes: int) -> Mamba1:
    torch.manual_seed(0)
    block = Mamba1(replace(small_spec("mamba1"), d_inner=2 * WIDTH, **changes))
    block.init_weights(1.0)
    return block


@pytest.mark.parametrize("changes", [{}, {"d_state": 3, "d_conv": 1, "d_model": 40}, {"d_conv": 7}])
@pytest.mark.parametrize("length", [1, 3, 4, 33])
def test_block_equals_reference_implementation(length: int, changes: dict[str, int]) -> None:
    block = build_block(**changes)
    x = torch.randn(2, length, changes.get("d_model", WIDTH), requires_grad=True)
    torch.testing.assert_close(block(x).y.double(), reference_mamba1(block, x), rtol=1e-4, atol=1e-6)

    projection, leaves = torch.randn(x.shape), {"x": x, **dict(block.named_parameters())}
    fast = torch.autograd.grad((block(x).y * projection).sum(), list(leaves.values()))
    reference = torch.autograd.grad((reference_mamba1(block, x) * projection).sum(), list(leaves.values()))
    for name, found, wanted in zip(leaves, fast, reference, strict=True):
        if length == 1 and name == "A_log":  # there is no state before the first position
            assert not found.any() and not wanted.any()
        else:
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5 * float(wanted.abs().max()), msg=name)


def test_parameter_shapes() -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in build_block(d_model=40, d_state=5).named_parameters()}
    assert shapes == {
        "in_proj.weight": (256, 40),
        "conv_weight": (128, 4),
        "conv_bias": (128,),
        "x_proj.weight": (3 + 2 * 5, 128),  # R = ceil(40 / 16)
        "dt_proj.weight": (128, 3),
        "dt_bias": (128,),
        "A_log": (128, 5),
        "D": (128,),
        "out_proj.weight": (40, 128),
    }


def test_block_equals_transformers() -> None:
    """MambaMixer without its kernels, with the same weights: outputs and gradients."""
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    block = build_block()
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "state_size": block.d_state, "conv_kernel": 4}
    config = transformers.MambaConfig(**sizes, time_step_rank=WIDTH // 16, use_bias=False, use_conv_bias=True)
    mixer = modeling.MambaMixer(config, layer_idx=0)
    ours = {name: parameter.detach() for name, parameter in block.named_parameters()}
    renamed = {"conv_weight": "conv1d.weight", "conv_bias": "conv1d.bias", "dt_bias": "dt_proj.bias"}
    weights = {renamed.get(name, name): value for name, value in ours.items()}
    weights["conv1d.weight"] = weights["conv1d.weight"][:, None]
    mixer.load_state_dict(weights)

    x = torch.randn(2, 50, WIDTH)
    theirs = mixer(x)
    torch.testing.assert_close(block(x).y, theirs, rtol=1e-4, atol=1e-6)
    block(x).y.square().sum().backward()
    theirs.square().sum().backward()
    wanted = {name: parameter.grad for name, parameter in mixer.named_parameters()}
    for name, parameter in block.named_parameters():
        gradient = wanted[renamed.get(name, name)]
        assert parameter.grad is not None
        scale = float(gradient.abs().max())
        torch.testing.assert_close(parameter.grad, gradient.view_as(parameter), rtol=1e-3, atol=1e-5 * scale, msg=name)


def test_prefill_continues_a_state() -> None:
    """Two prefills into one cache and single steps equal one full pass."""
    block, x = build_block(), torch.randn(2, 50, WIDTH)
    with torch.no_grad():
        whole = block(x).y
        cache = block.make_cache(2, 50, x)
        parts = [block(part, cache).y for part in x.split([21, 20, *([1] * 9)], dim=1)]
    assert cache.offset == 50 and cache.state.dtype == torch.float32
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-6)


def test_scan_stays_in_fp32() -> None:
    block, x = build_block(), torch.randn(2, 20, WIDTH)
    with torch.no_grad():
        exact = block(x).y
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cache = block.make_cache(2, 20, x)
            y = block(x, cache).y
    assert y.dtype == torch.bfloat16 and cache.state.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, rtol=0.1, atol=0.02 * float(exact.abs().max()))
