"""Costs computed by hand; `tests/contract` compares the formulas with built models."""

from dataclasses import fields, replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from src.config.schema import ArchitectureConfig, ModelSpec
from src.model.blocks import block_class, kind_names, kind_of
from src.model.blocks.attention.cost import mean_keys
from src.model.blocks.base import Block
from src.model.blocks.kind import Cost, mean_keys_in_chunk, padding_factor
from src.model.cost.model_cost import model_cost
from src.model.language_model import LanguageModel
from src.model.size_matching import match_size
from tests.contract.small import ARCHITECTURES, RECIPES, SIZES, composed, random_tokens, small_model, small_spec


@pytest.fixture
def spec() -> ModelSpec:
    """D = 8, 2 heads of 4, F = 12, 4 experts of 6 of which 2 are active, N = 3, K = 4, e = 2, Q = 5, W = 4, V = 10."""
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
    assert [padding_factor(length, 5) for length in (5, 6, 10, 2)] == [1, 10 / 6, 1, 5 / 2]


def test_attention(spec: ModelSpec) -> None:
    cost = cost_of("attention", spec, 6)
    assert cost.params == cost.active_params == 4 * 64 + 8
    assert cost.flops == 2 * 4 * 64 + 2 * 2 * 8 * 3.5
    assert cost.executed_flops == 2 * 4 * 64 + 2 * 2 * 8 * 6, "masked scores are computed too"
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


@pytest.mark.parametrize("architecture", ["mamba", "gated_deltanet"])
def test_what_is_mixed_is_computed_again(architecture: str) -> None:
    """All products but those of the projections, in a backward pass without activation checkpointing."""
    model = small_model(architecture)
    projections = sum(2 * model.get_parameter(name).numel() for name in model.matrices() if ".w_" not in name)
    mixed = sum(
        cost_of(architecture, model.spec, 64).executed_flops for kind in model.spec.blocks if kind == architecture
    )
    cost = model_cost(model.spec, 64)
    assert cost.mix_recompute_flops_per_token == mixed - projections > 0
    assert cost.executed_train_flops_per_token() == 3 * cost.executed_forward_flops_per_token + mixed - projections


def test_mamba1(spec: ModelSpec) -> None:
    """`3dD+d(K+1)+d(R+2N)+d(R+1)+d(N+1)+D` with D = 8, d = 16, N = 3, K = 4 and R = 1; the scan is 9dN."""
    cost = cost_of("mamba1", spec, 6)
    assert cost.params == cost.active_params == 3 * 16 * 8 + 16 * 5 + 16 * 7 + 16 * 2 + 16 * 4 + 8
    matrices = 2 * (8 * 32 + 16 * 7 + 1 * 16 + 16 * 8)
    convolution, scan = 2 * 4 * 16, 9 * 16 * 3
    assert cost.flops == cost.executed_flops == matrices + convolution + scan
    assert cost.state_bytes == (3 * 16 + 16 * 3) * 4
    assert cost_of("mamba1", spec, 7) == cost_of("mamba1", replace(spec, chunk_size=64), 5_000_000), "at any length"
    wider = cost_of("mamba1", replace(spec, d_model=17), 6)
    assert wider.params == 3 * 16 * 17 + 16 * 5 + 16 * 8 + 16 * 3 + 16 * 4 + 17, "R = 2"


@pytest.mark.parametrize(("width", "ratio"), [(128, 1.19), (256, 1.09), (512, 1.05), (768, 1.04)])
def test_two_mamba_blocks_are_about_one_layer(width: int, ratio: float) -> None:
    spec = replace(small_spec("dense"), d_model=width, d_inner=2 * width, head_dim=64, d_state=64)
    spec = replace(spec, d_ff=-(-8 * width // 24) * 8)
    layer = cost_of("attention", spec, 1).params + cost_of("mlp", spec, 1).params
    assert 2 * cost_of("mamba", spec, 1).params / layer == pytest.approx(ratio, abs=0.005)


def test_whole_model(spec: ModelSpec) -> None:
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


def test_activation_checkpointing_recomputes_blocks_without_last_products(spec: ModelSpec) -> None:
    cost = model_cost(replace(spec, blocks=("attention", "mlp", "moe")), 6)
    forward = cost.executed_forward_flops_per_token
    assert cost.executed_train_flops_per_token() == 3 * forward
    again = forward - 2 * 10 * 8 - 2 * 8 * 8 - 2 * 12 * 8  # not the head, y of attention, or that of the mlp
    assert cost.executed_train_flops_per_token(activation_checkpointing=True) == 3 * forward + again


@pytest.mark.usefixtures("without_cpu_kernels")
@pytest.mark.parametrize("architecture", ["dense", "mamba", "mamba1", "moe", "hybrid"])
def test_recomputed_flops_equal_those_counted_by_torch(architecture: str) -> None:
    model, tokens = small_model(architecture), random_tokens(2, 64)

    def counted(activation_checkpointing: bool) -> float:
        model.activation_checkpointing = activation_checkpointing
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model.logits(tokens).sum().backward()
        return counter.get_total_flops() / tokens.numel()

    cost = model_cost(model.spec, 64)
    # torch does not count the element-wise work of Mamba-1's scan.
    unseen = sum(7 * model.spec.d_inner * model.spec.d_state for kind in model.spec.blocks if kind == "mamba1")
    again = cost.recomputed_flops_per_token - cost.mix_recompute_flops_per_token
    assert again - unseen == pytest.approx(counted(True) - counted(False), rel=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_of_every_size_equal_the_built_model(
    architecture: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly, without allocating weights: the meta device has only shapes."""
    monkeypatch.setattr(LanguageModel, "init_weights", lambda model: None)  # it takes nine tenths of the time
    dimensions = composed("dense", "modern", f"size={size}").size
    for recipe in RECIPES:
        config = composed(architecture, recipe)
        if len(config.architecture.pattern) > 2 * dimensions.n_layers:
            pytest.skip("too few layers for the pattern")
        match = match_size(
            config.architecture, dimensions, config.recipe, vocab_size=32000, seq_len=1024, match="active"
        )
        with torch.device("meta"):
            weights = list(LanguageModel(match.spec).parameters())
        assert all(weight.is_meta for weight in weights)
        cost, n_params = model_cost(match.spec, 1024), sum(weight.numel() for weight in weights)
        idle = 1 - match.spec.top_k / match.spec.n_experts
        inactive = sum(weight.numel() for weight in weights if weight.ndim == 3) * idle
        assert (cost.total_params, cost.active_params) == (n_params, n_params - inactive)


def test_weights_can_be_initialized_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = LanguageModel(replace(small_spec("dense"), blocks=tuple(kind_names())))
    assert all(weight.is_meta for weight in model.parameters())


def test_learned_positions_exist_only_with_attention(spec: ModelSpec) -> None:
    with_attention = model_cost(replace(classic(spec), blocks=("sliding_attention", "mamba")), 6)
    without = model_cost(replace(classic(spec), blocks=("mamba", "mamba")), 6)
    assert with_attention.embedding_params - without.embedding_params == 20 * 8


def test_every_kind_has_a_class_and_valid_settings() -> None:
    settings = {item.name for item in fields(ArchitectureConfig)}
    for name in kind_names():
        assert issubclass(block_class(name), Block)
        assert settings >= set(kind_of(name).settings), name
