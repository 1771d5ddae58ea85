"""Products of few rows: the same numbers as the plain product, and only where the faster form applies."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import SamplingConfig
from src.inference.generation import generate
from src.model.blocks import linear as module
from src.model.blocks.base import disable_cpu_kernels
from src.model.blocks.linear import MAX_ROWS, Linear, linear
from src.model.language_model import LanguageModel
from src.training.optimizers import prepare_weights
from tests.contract.small import ARCHITECTURES, random_tokens, small_model

needs_mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="products are split only for MKL")


@pytest.fixture
def divided(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Simulate a non-Intel CPU with two threads that splits small weights too; record the number of parts."""
    before, parts = torch.get_num_threads(), list[int]()
    plain = module._multiply_by_parts

    def recorded(x: Tensor, weight: Tensor, n: int) -> Tensor:
        parts.append(n)
        return plain(x, weight, n)

    monkeypatch.setattr(module, "IS_INTEL", False)
    monkeypatch.setattr(module, "MIN_WEIGHT_SIZE", 1)
    monkeypatch.setattr(module, "_multiply_by_parts", recorded)
    torch.set_num_threads(2)
    yield parts
    torch.set_num_threads(before)


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Simulate an Intel CPU that transposes products with small weights too; record the number of rows."""
    rows, plain = list[int](), module._multiply_weight_first

    def recorded(x: Tensor, weight: Tensor) -> Tensor:
        rows.append(len(x))
        return plain(x, weight)

    monkeypatch.setattr(module, "IS_INTEL", True)
    monkeypatch.setattr(module, "MIN_INTEL_WEIGHT_SIZE", 1)
    monkeypatch.setattr(module, "_multiply_weight_first", recorded)
    return rows


def check_product(shape: tuple[int, ...], bias: bool) -> None:
    """Compare a layer with its product in float64."""
    layer, x = Linear(96, 32, bias=bias), torch.randn(*shape, 96)
    y, expected = layer(x), F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)
    assert y.is_contiguous()


@needs_mkl
@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 5), (MAX_ROWS, 1), (7,), ()])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_product_by_parts_equals_the_whole(
    shape: tuple[int, ...], bias: bool, threads: int, divided: list[int]
) -> None:
    torch.set_num_threads(threads)
    check_product(shape, bias)
    assert divided == {1: [], 2: [2], 3: [2], 4: [4]}[threads], "32 rows of weight are not a multiple of 3"


@needs_mkl
@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (6, 1), (7,), (2, 5), (48, 1), (7, 7), ()])
def test_transposed_product_equals_the_plain_one(shape: tuple[int, ...], bias: bool, turned: list[int]) -> None:
    check_product(shape, bias)
    rows = math.prod(shape)
    assert turned == ([rows] if 7 <= rows <= 48 else [])


def check_exceptions(x: Tensor, one_row_more: Tensor, done: list[int]) -> None:
    """Check that only the product of x without gradients, autocast or another row uses the faster form."""
    weight = torch.randn(64, 96)
    with torch.no_grad():
        linear(x, weight)
        assert len(done) == 1
        linear(one_row_more, weight)
        with disable_cpu_kernels():
            linear(x, weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16
        assert linear(x[:0], weight).shape == (0, 64)
    linear(x, weight)
    assert len(done) == 1


@needs_mkl
def test_only_few_rows_without_gradients_are_split(divided: list[int]) -> None:
    x = torch.randn(MAX_ROWS + 1, 96)
    check_exceptions(x[1:], x, divided)
    assert divided == [2]


@needs_mkl
def test_only_few_rows_without_gradients_are_transposed(turned: list[int]) -> None:
    x = torch.randn(49, 96)
    check_exceptions(x[1:], x, turned)
    assert turned == [48]


def check_decoding(model: LanguageModel, rows: int, done: list[int]) -> None:
    """Compare the logits of decoded texts with those of a full pass, which does not use the faster form."""
    tokens = random_tokens(rows, 40)
    whole = model.logits(tokens).detach()
    assert not done
    with torch.no_grad():
        cache = model.make_cache(rows, 40)
        parts = [model.logits(part, cache) for part in (tokens[:, :30], *tokens[:, 30:].split(1, dim=1))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


@needs_mkl
@pytest.mark.parametrize("recipe", ["modern", pytest.param("classic", marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoding_by_parts_equals_the_full_pass(architecture: str, recipe: str, divided: list[int]) -> None:
    check_decoding(small_model(architecture, recipe), 2, divided)
    assert set(divided) >= {2}


@needs_mkl
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoding_many_texts_equals_the_full_pass(architecture: str, turned: list[int]) -> None:
    check_decoding(small_model(architecture), 8, turned)
    assert 8 in turned


@needs_mkl
def test_text_does_not_depend_on_the_parts(divided: list[int]) -> None:
    model, sampling = small_model("dense"), SamplingConfig(max_new_tokens=20)
    text = list(generate(model, [1, 2, 3], sampling))
    assert divided
    torch.set_num_threads(1)
    assert list(generate(model, [1, 2, 3], sampling)) == text


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_in_bf16_compute_as_the_same_weights_in_fp32(architecture: str) -> None:
    """The hidden states are equal, and gradients are those of fp32, rounded."""
    lean, plain = small_model(architecture), small_model(architecture)
    prepare_weights(lean, "lean")
    plain.load_state_dict(lean.state_dict())
    tokens = random_tokens(2, 24)
    for model in (lean, plain):
        output = model(tokens)
        (output.hidden.square().mean() + (output.aux_loss or 0)).backward()
    torch.testing.assert_close(lean(tokens).hidden, plain(tokens).hidden, atol=0, rtol=0)
    for (name, ours), theirs in zip(lean.named_parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            assert ours.grad is not None and ours.grad.dtype == ours.dtype, name
            torch.testing.assert_close(ours.grad.float(), theirs.grad, atol=1e-6, rtol=2**-8, msg=name)
