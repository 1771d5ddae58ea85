"""Recurrences whose transition 2 exp(dt A) - 1 lies in [-1, 1], against loops in float64; what they can compute."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from src.config.schema import UserError
from src.huggingface import mapping_of
from src.model.blocks.mamba.ssd import signed_ssd, signed_transition
from src.model.blocks.mamba1.module import scan, selective_scan
from src.model.build import build_model
from tests.contract.small import random_tokens, run_as_compiled, small_spec
from tests.model.blocks import test_mamba, test_mamba1
from tests.reference.documents import packed_ids, scan_separately
from tests.reference.mamba1 import sequential_scan
from tests.reference.ssd import sequential_ssd

KINDS = ("gated_deltanet", "mamba", "mamba1")
Results = dict[str, Tensor]


def ssd_inputs(length: int, high: float = 2.0, seed: int = 0) -> list[Tensor]:
    """Draw inputs in float64 whose transitions have both signs: exp(dt A) is on both sides of 1/2."""
    return [part.double() for part in test_mamba.ssd_inputs(length, 1e-2, high, seed)]


def scan_inputs(length: int, high: float = 2.0) -> list[Tensor]:
    return [part.double() for part in test_mamba1.scan_inputs(length, 1e-2, high)]


signed_scan = partial(selective_scan, is_signed=True)


def in_chunks(form: Callable[..., Any], size: int, documents: Tensor | None = None) -> Callable[..., Any]:
    return lambda x, dt, a, b, c, state: form(x, dt, a, b, c, size, state, documents)


def assert_equal(found: Results, wanted: Results, tolerance: float = 1e-9) -> None:
    errors = {name: test_mamba.worst_error(found[name], wanted[name]) for name in wanted}
    assert max(errors.values()) < tolerance, errors


@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
@pytest.mark.parametrize("length", [1, 16, 40])
def test_chunks_equal_reference_implementation(length: int, chunk: int) -> None:
    """Values and gradients in float64; with a length that chunks do not divide, from a state."""
    inputs = ssd_inputs(length)
    transition = signed_transition(inputs[1], inputs[2])
    assert (transition < 0).any() and (transition > 0).any()
    found = test_mamba.with_gradients(in_chunks(signed_ssd, chunk), inputs)
    assert_equal(found, test_mamba.with_gradients(partial(sequential_ssd, is_signed=True), inputs))


def test_scan_equals_reference_implementation() -> None:
    inputs = scan_inputs(40)
    wanted = test_mamba1.with_gradients(partial(sequential_scan, is_signed=True), inputs)
    for chunk in (1, 7, 64):
        found = test_mamba1.with_gradients(in_chunks(signed_scan, chunk), inputs)
        assert max(test_mamba1.errors(found, wanted).values()) < 1e-12
    form = in_chunks(signed_scan, 4, packed_ids((3, 1, 7), 2))
    assert torch.autograd.gradcheck(form, [part.requires_grad_() for part in scan_inputs(11)])


@pytest.mark.parametrize(
    ("form", "reference", "draw", "gradients"),
    [
        (signed_ssd, sequential_ssd, ssd_inputs, test_mamba.with_gradients),
        (signed_scan, sequential_scan, scan_inputs, test_mamba1.with_gradients),
    ],
    ids=["mamba", "mamba1"],
)
def test_documents_begin_with_zero_state(
    form: Callable[..., Any], reference: Callable[..., Any], draw: Callable[..., Any], gradients: Callable[..., Results]
) -> None:
    """Several documents in a chunk, and a part of one; a negative transition of one does not turn the next."""
    lengths = (5, 2, 9, 1, 20)
    inputs, documents = draw(sum(lengths)), packed_ids(lengths, 2)
    found = gradients(in_chunks(form, 8, documents), inputs)
    assert_equal(found, gradients(scan_separately(partial(reference, is_signed=True), lengths), inputs))


def test_a_transition_of_zero_has_its_gradient() -> None:
    """dt A = -ln 2 gives exactly 0, whose logarithm is infinite; it counts as 1e-6."""
    x, dt, a, b, c, state = ssd_inputs(6)
    a[:], dt[:, 3] = -1.0, torch.tensor(2.0, dtype=torch.float64).log()
    assert not signed_transition(dt, a)[:, 3].any()
    inputs = [x, dt, a, b, c, state]
    found = test_mamba.with_gradients(in_chunks(signed_ssd, 4), inputs)
    assert_equal(found, test_mamba.with_gradients(partial(sequential_ssd, is_signed=True), inputs), 1e-5)


def test_custom_operations_match_their_schemas() -> None:
    x, dt, a, b, c, state = (part.float() for part in scan_inputs(11))
    begins = packed_ids((3, 1, 7), 2) > 0
    x = x.transpose(1, 2).contiguous().transpose(1, 2)  # as the convolution leaves it
    y, last, starts = scan(x, dt, a, b, c, state, begins, 4, True)
    operations, checks = torch.ops.advanced_code_model, ("test_schema", "test_faketensor")
    torch.library.opcheck(operations.scan.default, (x, dt, a, b, c, state, begins, 4, True), test_utils=checks)
    backward = (y, last, x, dt, a, b, c, starts, begins, 4, True)
    torch.library.opcheck(operations.scan_backward.default, backward, test_utils=checks)


@pytest.mark.parametrize("kind", KINDS)
def test_models(kind: str) -> None:
    """Decoding equals the full pass, as does the path of compiled models; no client has such a class."""
    spec = replace(small_spec(kind), negative_eigenvalues=True)
    model, plain = (build_model(each, seed=0).eval() for each in (spec, small_spec(kind)))
    if kind != "gated_deltanet":  # whose writes have a strength above 1 from the start
        for name, parameter in (*model.named_parameters(), *plain.named_parameters()):
            if name.endswith("dt_bias"):
                torch.nn.init.constant_(parameter, 1.0)
    tokens = random_tokens(2, 40)
    with torch.no_grad():
        whole = model.logits(tokens)
        assert not torch.allclose(whole, plain.logits(tokens))
        cache = model.make_cache(2, 40)
        parts = [model.logits(part, cache) for part in (tokens[:, :30], *tokens[:, 30:].split(1, dim=1))]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.head(run_as_compiled(model)(tokens).hidden), whole, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match=r"negative_eigenvalues=true: .*eigenvalues from 0 to 1 alone"):
        mapping_of(spec)


@pytest.mark.parametrize("form", ["mamba", "mamba1"])
def test_parity_of_ones(form: str) -> None:
    """A large dt turns the state and a small one keeps it, so a state of 1 becomes the parity of the bits."""
    bits = torch.tensor([[1, 0, 1, 1, 0, 1, 0, 0, 1]], dtype=torch.float64)
    wanted = (1 - 2 * (bits.cumsum(1) % 2)).flatten()
    dt, zeros = bits[..., None] * 100 + 1e-9, torch.zeros(1, 9, 1, dtype=torch.float64)
    ones = torch.ones(1, 9, 1, dtype=torch.float64)
    if form == "mamba":
        found, _ = signed_ssd(zeros[..., None], dt, -ones[0, 0], ones, ones, 4, ones[:, :1, :1, None])
    else:
        found, _ = selective_scan(zeros, dt, -ones[0, :1], ones, ones, 4, ones[:, :1], None, True)
    torch.testing.assert_close(found.flatten(), wanted)
