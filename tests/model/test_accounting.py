"""Costs worked out by hand; `tests/contract` holds the formulas against the models that are built."""

from dataclasses import fields, replace

import pytest

from src.config import ArchitectureConfig, ModelSpec
from src.model.accounting import model_cost
from src.model.blocks import KINDS, block_class, kind_of
from src.model.blocks.base import Block
from src.model.blocks.costs import Cost, mean_keys, mean_keys_in_chunk, padding
from tests.contract.small import small_spec


@pytest.fixture
def spec() -> ModelSpec:
    """D = 8, 2 heads of 4, F = 12, 4 experts of 6 of which 2 work, N = 3, K = 4, e = 2, Q = 5, W = 4, V = 10."""
    return replace(
        small_spec("dense", "modern"),
        vocab_size=10,
        d_model=8,
        head_dim=4,
        d_ff=12,
        expert_d_ff=6,
        n_experts=4,
        top_k=2,
        window=4,
        d_state=3,
        d_conv=4,
        d_inner=16,
        chunk_size=5,
        max_seq_len=20,
    )


def cost_of(kind: str, spec: ModelSpec, context_len: int) -> Cost:
    return kind_of(kind).cost(spec, context_len)


def classic(spec: ModelSpec) -> ModelSpec:
    return replace(spec, norm="layernorm", position="learned", mlp="gelu", bias=True)


def test_mean_keys() -> None:
    assert mean_keys(1, 1) == 1
    assert mean_keys(4, 4) == (1 + 2 + 3 + 4) / 4
    assert mean_keys(6, 4) == (1 + 2 + 3 + 4 + 4 + 4) / 6
    assert mean_keys(3, 100) == (1 + 2 + 3) / 3
    assert mean_keys(5, 1) == 1
    assert mean_keys_in_chunk(10, 5) == (1 + 2 + 3 + 4 + 5) / 5
    assert mean_keys_in_chunk(7, 5) == (1 + 2 + 3 + 4 + 5 + 1 + 2) / 7
    assert mean_keys_in_chunk(3, 5) == (1 + 2 + 3) / 3
    assert [padding(length, 5) for length in (5, 6, 10, 2)] == [1, 10 / 6, 1, 5 / 2]


def test_attention(spec: ModelSpec) -> None:
    cost = cost_of("attention", spec, 6)
    assert cost.params == cost.active_params == 4 * 64 + 8
    assert cost.flops == 2 * 4 * 64 + 2 * 2 * 8 * 3.5
    assert cost.executed_flops == 2 * 4 * 64 + 2 * 2 * 8 * 6, "a masked score is computed like any other"
    assert cost.state_bytes == 2 * 6 * 8 * 4
    assert cost_of("attention", classic(spec), 6).params == 4 * 64 + 4 * 8 + 2 * 8


def test_sliding_attention(spec: ModelSpec) -> None:
    cost, full = cost_of("sliding_attention", spec, 6), cost_of("attention", spec, 6)
    assert cost.params == full.params
    assert cost.flops == 2 * 4 * 64 + 4 * 8 * 3
    in_blocks = 4 * 4 + 4 * 8  # scores: the first window with itself; the second, half of it padding, with both
    assert cost.executed_flops == 2 * 4 * 64 + 4 * 8 * in_blocks / 6
    assert cost.state_bytes == 2 * 4 * 8 * 4
    assert cost_of("sliding_attention", spec, 3) == cost_of("attention", spec, 3)


def test_mlp(spec: ModelSpec) -> None:
    cost = cost_of("mlp", spec, 6)
    assert (cost.params, cost.flops, cost.state_bytes) == (3 * 8 * 12 + 8, 2 * 3 * 8 * 12, 0)
    assert cost_of("mlp", classic(spec), 6).params == 2 * 8 * 12 + (12 + 8) + 2 * 8


def test_moe(spec: ModelSpec) -> None:
    cost = cost_of("moe", spec, 6)
    assert cost.params == 4 * 3 * 8 * 6 + 8 * 4 + 8
    assert cost.active_params == 2 * 3 * 8 * 6 + 8 * 4 + 8
    assert cost.flops == 2 * (2 * 3 * 8 * 6 + 8 * 4)
    assert cost_of("moe", classic(spec), 6).params == 4 * 2 * 8 * 6 + 8 * 4 + 16, "experts have no biases"


def test_mamba(spec: ModelSpec) -> None:
    """`D(2d+2GN+H)+dD+(d+2GN)(K+1)+3H+d+D` with d = 16, N = 3, H = 4, G = 1, K = 4."""
    cost = cost_of("mamba", spec, 6)
    assert cost.params == 8 * (32 + 6 + 4) + 16 * 8 + 22 * 5 + 12 + 16 + 8
    matrices = 2 * (8 * 42 + 16 * 8)
    convolution = 2 * 4 * 22
    states = 4 * 4 * 3 * 4
    score = 2 * 3 + 2 * 4 * 4  # C B^T once, then a weight on x in each of four heads
    assert cost.flops == matrices + convolution + score * (1 + 2 + 3 + 4 + 5 + 1) / 6 + states
    assert cost.executed_flops == pytest.approx(matrices + convolution + (score * 5 + states) * 10 / 6)
    assert cost.state_bytes == (3 * 22 + 3 * 16) * 4
    assert cost_of("mamba", spec, 5) == cost_of("mamba", spec, 5_000_000), "at any length"


@pytest.mark.parametrize(("width", "ratio"), [(128, 1.19), (256, 1.09), (512, 1.05), (768, 1.04)])
def test_two_mamba_blocks_against_a_layer(width: int, ratio: float) -> None:
    spec = replace(small_spec("dense"), d_model=width, d_inner=2 * width, head_dim=64, d_state=64)
    spec = replace(spec, d_ff=-(-8 * width // 24) * 8)
    layer = cost_of("attention", spec, 1).params + cost_of("mlp", spec, 1).params
    assert 2 * cost_of("mamba", spec, 1).params / layer == pytest.approx(ratio, abs=0.005)


def test_a_whole_model(spec: ModelSpec) -> None:
    cost = model_cost(replace(spec, blocks=("attention", "moe")), 6)
    attention, moe = cost_of("attention", spec, 6), cost_of("moe", spec, 6)
    assert cost.embedding_params == 2 * 10 * 8
    assert cost.non_embedding_params == attention.params + moe.params + 8
    assert cost.active_non_embedding_params == attention.params + moe.active_params + 8
    assert cost.total_params == cost.embedding_params + cost.non_embedding_params
    assert cost.active_params == cost.embedding_params + cost.active_non_embedding_params
    assert cost.forward_flops_per_token == attention.flops + moe.flops + 2 * 10 * 8
    assert cost.train_flops_per_token == 3 * cost.forward_flops_per_token
    assert cost.state_bytes == attention.state_bytes


def test_learned_positions_are_there_where_something_attends(spec: ModelSpec) -> None:
    with_attention = model_cost(replace(classic(spec), blocks=("sliding_attention", "mamba")), 6)
    without = model_cost(replace(classic(spec), blocks=("mamba", "mamba")), 6)
    assert with_attention.embedding_params - without.embedding_params == 20 * 8


def test_what_the_table_says_of_a_kind_is_there() -> None:
    settings = {item.name for item in fields(ArchitectureConfig)}
    for name, kind in KINDS.items():
        assert issubclass(block_class(name), Block)
        assert settings >= set(kind.settings), name
