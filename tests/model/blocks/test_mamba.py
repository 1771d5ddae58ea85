"""The chunked state-space dual form and the block against their reference implementations."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from src.model.blocks import convolution
from src.model.blocks.base import disable_cpu_kernels, inverse_softplus, log_uniform
from src.model.blocks.mamba import ssd as ssd_module
from src.model.blocks.mamba.cpu_ssd import MAX_EXPONENT, factorized_ssd
from src.model.blocks.mamba.module import Mamba
from src.model.blocks.mamba.ssd import chunked_ssd, ssd
from tests.contract.small import small_spec
from tests.reference.documents import packed_ids, scan_separately
from tests.reference.mamba import reference_mamba
from tests.reference.ssd import sequential_ssd

NAMES = ("x", "dt", "a", "b", "c", "state")
HEADS, WIDTH, N_STATE = 3, 4, 5


def ssd_inputs(length: int, low: float, high: float, seed: int = 0) -> list[Tensor]:
    """Draw x, dt (log-uniform from low to high), a (-1, -4, -16), b, c and an initial state."""
    torch.manual_seed(seed)
    dt = torch.exp(torch.rand(2, length, HEADS) * math.log(high / low) + math.log(low))
    x, b, c = (torch.randn(2, length, *shape) for shape in ((HEADS, WIDTH), (N_STATE,), (N_STATE,)))
    return [x, dt, -torch.tensor([1.0, 4.0, 16.0]), b, c, torch.randn(2, N_STATE, HEADS, WIDTH)]


def with_gradients(function: Callable[..., tuple[Tensor, Tensor]], inputs: list[Tensor]) -> dict[str, Tensor]:
    """Return y, the last state, and the gradients of a random projection of both, by name."""
    inputs = [part.clone().requires_grad_() for part in inputs]
    y, state = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    (y * torch.randn(y.shape, generator=generator)).sum().backward(retain_graph=True)
    (state * torch.randn(state.shape, generator=generator)).sum().backward()
    gradients = {f"d{name}": part.grad for name, part in zip(NAMES, inputs, strict=True) if part.grad is not None}
    assert len(gradients) == len(NAMES)
    return {"y": y.detach(), "last state": state.detach()} | gradients


def worst_error(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference relative to the largest expected value."""
    assert found.isfinite().all()
    return float((found - wanted).abs().max() / wanted.abs().max())


def chunked(size: int, form: Callable[..., Any] = chunked_ssd) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda x, dt, a, b, c, state: form(x, dt, a, b, c, size, state)


@pytest.mark.parametrize("form", [chunked_ssd, factorized_ssd])
@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 100])
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64, 100])
def test_chunks_equal_reference_implementation(length: int, chunk: int, form: Callable[..., Any]) -> None:
    inputs = ssd_inputs(length, 1e-3, 1e-1 if chunk <= 64 else 6e-2)
    found, wanted = with_gradients(chunked(chunk, form), inputs), with_gradients(sequential_ssd, inputs)
    assert {name: worst_error(found[name], wanted[name]) for name in wanted} == pytest.approx(
        dict.fromkeys(wanted, 0.0), abs=5e-6
    )


def test_sums_as_products_equal_cumulative_sums() -> None:
    """In deterministic mode, as CUDA's cumulative sum does not repeat bit for bit."""
    inputs = ssd_inputs(50, 1e-3, 1e-1)
    plain = with_gradients(chunked(16), inputs)
    torch.use_deterministic_algorithms(True)
    try:
        found = with_gradients(chunked(16), inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    assert max(worst_error(found[name], plain[name]) for name in plain) < 5e-6


@pytest.mark.parametrize(
    ("low", "high", "tolerance"), [(1e-4, 1e-4 + 1e-9, 5e-6), (1e-4, 1.0, 2e-5), (1e-4, 10.0, 2e-4)]
)
@pytest.mark.parametrize("form", [chunked_ssd, ssd])
@pytest.mark.parametrize("chunk", [16, 64])
def test_strong_and_weak_decay_in_one_sequence(
    low: float, high: float, tolerance: float, chunk: int, form: Callable[..., Any]
) -> None:
    """A up to 16 and dt up to 10 decay completely within a step: exp(-160). Nothing overflows or becomes NaN."""
    inputs = ssd_inputs(200, low, high)
    found, wanted = with_gradients(chunked(chunk, form), inputs), with_gradients(sequential_ssd, inputs)
    errors = {name: worst_error(found[name], wanted[name]) for name in wanted}
    assert max(errors.values()) < tolerance, errors


def test_complete_decay() -> None:
    """With dt = 10 everywhere, da is the rounding error of sums that cancel; it is compared with their terms."""
    inputs = ssd_inputs(100, 10.0, 10.0 + 1e-6)
    found, wanted = with_gradients(chunked(64), inputs), with_gradients(sequential_ssd, inputs)
    terms = (inputs[1] * wanted["ddt"]).abs().sum()
    assert (found["da"] - wanted["da"]).abs().max() < 1e-6 * terms
    for name in wanted.keys() - {"da"}:
        assert worst_error(found[name], wanted[name]) < 1e-5, name


@pytest.mark.parametrize("margin", [0.99, 1.01])
def test_factorized_form_is_used_only_below_its_limit(margin: float) -> None:
    """Large inputs just below the limit are exact to fp32; beyond it, and for NaN, the general form is used."""
    x, _, _, b, c, state = ssd_inputs(64, 1.0, 1.1)
    steps = torch.full((2, 64, HEADS), margin * MAX_EXPONENT / 17)  # of a chunk's first 17 steps
    x, a, b, c = 1000 * x, -torch.tensor([1.0, 0.5, 0.01]), 30 * b, 30 * c
    inputs = [x, steps, a, b, c, state]
    assert (factorized_ssd(x, steps, a, b, c, 32) is None) == (margin > 1)
    found, wanted = with_gradients(chunked(64, ssd), inputs), with_gradients(sequential_ssd, inputs)
    errors = {name: worst_error(found[name], wanted[name]) for name in wanted.keys() - {"da"}}
    assert max(errors.values()) < 2e-5, errors
    steps[0, 5, 1] = torch.nan
    assert factorized_ssd(x, steps, a, b, c, 32) is None


@pytest.mark.parametrize("first", [15.0, 20.0, 24.0])
def test_first_step_of_a_chunk_is_included(first: float) -> None:
    """It decays a state of large numbers, in addition to steps that already reach the limit."""
    x, _, _, b, c, state = ssd_inputs(64, 1.0, 1.1)
    steps = torch.full((2, 64, HEADS), 0.99 * MAX_EXPONENT / 16)
    steps[:, 0], steps[:, 32], x[:, 31], a = 0.1, first, 1e10 * x[:, 31], -torch.ones(HEADS)
    (found, _), (wanted, _) = ssd(x, steps, a, b, c, 64, state), sequential_ssd(x, steps, a, b, c, state)
    assert worst_error(found[:, 32], wanted[:, 32]) < 1e-6


def test_form_depends_on_documents_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    x, dt, a, b, c, _ = ssd_inputs(64, 1e-3, 1e-1)
    called: list[str] = []
    for name in ("factorized_ssd", "chunked_ssd"):
        monkeypatch.setattr(ssd_module, name, lambda *_, name=name: called.append(name))
    documents = packed_ids((30, 34), 2)
    ssd(x, dt, a, b, c, 64)
    ssd(x, dt, a, b, c, 64, None, documents)
    with disable_cpu_kernels():
        ssd(x, dt, a, b, c, 64)
    assert called == ["factorized_ssd", "chunked_ssd", "chunked_ssd", "chunked_ssd"], "the first returns None here"


@pytest.mark.parametrize(("length", "taps"), [(1, 4), (3, 4), (30, 4), (30, 1)])
def test_taps_equal_the_convolution(length: int, taps: int) -> None:
    """The form of compiled models against the kernel, including gradients."""
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=draw).requires_grad_() for shape in ((2, length, 6), (6, taps), (6,))]
    weights = torch.randn(2, length, 6, generator=draw)

    def by_taps(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return convolution._convolve_taps(torch.nn.functional.pad(x, (0, 0, taps - 1, 0)), weight, bias, None)

    found, wanted = by_taps(*inputs), convolution.convolve(*inputs, cache=None)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    pairs = (torch.autograd.grad((y * weights).sum(), inputs) for y in (found, wanted))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [32, 27])
@pytest.mark.parametrize("taps", [1, 4])
def test_long_text_is_convolved_in_rows(taps: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=draw).requires_grad_() for shape in ((2, length, 6), (6, taps), (6,))]
    weights, shapes = torch.randn(2, length, 6, generator=draw), []
    by_image = convolution._convolve_conv2d
    monkeypatch.setattr(
        convolution, "_convolve_conv2d", lambda x, *rest: (shapes.append(x.shape), by_image(x, *rest))[1]
    )
    monkeypatch.setattr(convolution, "ROW_LENGTH", 8)
    results = []
    for long in (length, length + 1):
        monkeypatch.setattr(convolution, "MIN_LONG_LENGTH", long)
        y = convolution.convolve(*inputs, cache=None)
        results.append((y.detach(), *torch.autograd.grad((y * weights).sum(), inputs)))
    assert shapes == [(8, taps - 1 + 8, 6), (2, taps - 1 + length, 6)]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("high", [1e-1, 10.0])
@pytest.mark.parametrize("chunk", [1, 7, 16, 100])
def test_documents_begin_with_zero_state(chunk: int, high: float) -> None:
    """Documents start within a chunk or at its start, several or a part of one in a chunk; the first has a state."""
    lengths = (5, 2, 9, 1, 40, 7)
    inputs = ssd_inputs(sum(lengths), 1e-3, high)
    documents = packed_ids(lengths, 2)

    def masked(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return chunked_ssd(x, dt, a, b, c, chunk, state, documents)

    reference = scan_separately(sequential_ssd, lengths)
    found, wanted = with_gradients(masked, inputs), with_gradients(reference, inputs)
    worst = {name: worst_error(found[name], wanted[name]) for name in wanted}
    assert max(worst.values()) < 2e-4, worst


@pytest.mark.parametrize("form", [chunked_ssd, ssd])
def test_no_state_equals_zero_state(form: Callable[..., Any]) -> None:
    *inputs, state = ssd_inputs(20, 1e-3, 1e-1)
    y, last = form(*inputs, chunk=8)
    zeroed, zeroed_last = form(*inputs, chunk=8, state=torch.zeros_like(state))
    assert torch.equal(y, zeroed) and torch.equal(last, zeroed_last)


@pytest.mark.parametrize("form", [chunked_ssd, ssd])
@pytest.mark.parametrize("cut", [1, 8, 13, 39])
def test_sequence_can_be_split_anywhere(cut: int, form: Callable[..., Any]) -> None:
    x, dt, a, b, c, state = ssd_inputs(40, 1e-3, 1.0)
    whole, last = form(x, dt, a, b, c, 8, state)
    first, between = form(x[:, :cut], dt[:, :cut], a, b[:, :cut], c[:, :cut], 8, state)
    second, end = form(x[:, cut:], dt[:, cut:], a, b[:, cut:], c[:, cut:], 8, between)
    torch.testing.assert_close(torch.cat((first, second), dim=1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(end, last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [1, 3, 4, 33])
def test_block_equals_reference_implementation(length: int) -> None:
    torch.manual_seed(0)
    block = Mamba(small_spec("mamba"))
    block.init_weights(1.0)
    x = torch.randn(2, length, 64)
    torch.testing.assert_close(block(x).y.double(), reference_mamba(block, x), rtol=1e-4, atol=1e-5)

    projection = torch.randn(2, length, 64)
    fast = torch.autograd.grad((block(x).y * projection).sum(), list(block.parameters()))
    reference = torch.autograd.grad((reference_mamba(block, x) * projection).sum(), list(block.parameters()))
    for (name, _), found, wanted in zip(block.named_parameters(), fast, reference, strict=True):
        assert worst_error(found, wanted) < 1e-4 if wanted.any() else not found.any(), name


def test_inverse_softplus_inverts_softplus() -> None:
    value = torch.tensor([1e-4, 1e-3, 0.1, 1.0, 10.0, 50.0])
    torch.testing.assert_close(torch.nn.functional.softplus(inverse_softplus(value)), value)


def test_log_uniform_is_uniform_in_the_logarithm() -> None:
    torch.manual_seed(0)
    drawn = log_uniform(10_000, 1e-3, 1e-1)
    assert drawn.min() >= 1e-3 and drawn.max() <= 1e-1
    share = [(drawn < bound).float().mean().item() for bound in (10**-2.5, 1e-2, 10**-1.5)]
    assert share == pytest.approx([0.25, 0.5, 0.75], abs=0.02)
