"""Every architecture at every size matches dense, and settings of the user are not changed."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.config.schema import ArchitectureConfig, ModelSpec, RecipeConfig, SizeConfig, UserError
from src.model.cost.model_cost import model_cost
from src.model.size_matching import (
    CLOSE_MATCH,
    QUANTITIES,
    TOLERANCE,
    Match,
    dense_d_ff,
    match_config,
    match_size,
    repeat_pattern,
    tokens_at_equal_flops,
)
from tests.contract.small import ARCHITECTURES, RECIPES, SIZES, composed

VOCAB_SIZE = 32000


def architecture_of(name: str, **changes: Any) -> ArchitectureConfig:
    return replace(composed(name, "modern").architecture, **changes)


def size_of(name: str) -> SizeConfig:
    return composed("dense", "modern", f"size={name}").size


def recipe_of(name: str) -> RecipeConfig:
    return composed("dense", name).recipe


def matched(
    architecture: ArchitectureConfig | str, size: str = "nano", recipe: str = "modern", match: str = "active"
) -> Match:
    configured = architecture_of(architecture) if isinstance(architecture, str) else architecture
    seq_len = size_of(size).seq_len
    return match_size(configured, size_of(size), recipe_of(recipe), vocab_size=VOCAB_SIZE, seq_len=seq_len, match=match)


def counted(spec: ModelSpec, rule: str, seq_len: int) -> float:
    """Return the quantity that a rule matches, from its definition: without embeddings, positions and head."""
    cost = model_cost(spec, seq_len)
    if rule == "flops":
        return cost.train_flops_per_token - 3 * 2 * spec.vocab_size * spec.d_model
    outside = (2 * spec.vocab_size + spec.learned_positions) * spec.d_model
    return (cost.active_params if rule == "active" else cost.total_params) - outside


@pytest.mark.parametrize("rule", QUANTITIES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_configured_size_is_matched(size: str, recipe: str, architecture: str, rule: str) -> None:
    if len(architecture_of(architecture).pattern) > 2 * size_of(size).n_layers:
        pytest.skip("the pattern is longer than the model")
    match = matched(architecture, size, recipe, rule)
    dense = counted(matched("dense", size, recipe, match="none").spec, rule, size_of(size).seq_len)
    assert match.residual == pytest.approx(counted(match.spec, rule, size_of(size).seq_len) / dense - 1, abs=1e-9)
    assert abs(match.residual) <= CLOSE_MATCH, "the limit is 2%, every configuration reaches 1%"
    assert set(match.solved) <= set(architecture_of(architecture).free_parameters)
    for name, value in match.solved.items():
        assert (len(match.spec.blocks) if name == "n_blocks" else getattr(match.spec, name)) == value


@pytest.mark.parametrize("rule", QUANTITIES)
@pytest.mark.parametrize("architecture", ["mamba", "mamba1", "moe", "hybrid"])
@given(
    heads=st.integers(1, 40), layers=st.integers(2, 48), head_dim=st.sampled_from([16, 32, 64, 96, 128]), d_ff=st.none()
)
@settings(max_examples=60, deadline=None)
def test_random_sizes_are_matched(
    architecture: str, rule: str, heads: int, layers: int, head_dim: int, d_ff: int | None
) -> None:
    size = replace(size_of("nano"), d_model=heads * head_dim, n_layers=layers, head_dim=head_dim, d_ff=d_ff)
    if size.d_model < 64:
        return
    match_size(architecture_of(architecture), size, recipe_of("modern"), vocab_size=VOCAB_SIZE, seq_len=512, match=rule)


@pytest.mark.parametrize(
    ("name", "size", "solved"),
    [
        ("dense", "mini", {}),
        ("mamba", "mini", {"n_blocks": 15}),
        ("moe", "mini", {"expert_d_ff": 672}),
        ("hybrid", "mini", {"d_ff": 1152}),
        ("moe", "tiny", {"expert_d_ff": 1024}),
        ("hybrid", "tiny", {"d_ff": 1792}),
        ("moe", "medium", {"expert_d_ff": 1344}),
    ],
)
def test_a_larger_grain_gives_widths_that_quantize(name: str, size: str, solved: dict[str, int]) -> None:
    given = size_of(size), recipe_of("modern")
    sizes = {"vocab_size": VOCAB_SIZE, "seq_len": given[0].seq_len, "match": "active", "grain": 64}
    match = match_size(architecture_of(name), *given, **sizes)
    assert match.solved == solved and abs(match.residual) <= TOLERANCE
    spec = match.spec
    widths = {"mlp": spec.d_ff, "moe": spec.expert_d_ff, "mamba": spec.d_inner}
    rows = [spec.d_model, *(width for kind, width in widths.items() if kind in spec.blocks)]
    assert all(width % 32 == 0 for width in rows)
    assert all(width % 64 == 0 for width in rows) or solved == {"expert_d_ff": 672}, "64 would miss by 3%"
    dense = match_size(architecture_of("dense"), *given, **sizes)
    counts = [counted(each.spec, "active", given[0].seq_len) for each in (match, dense)]
    assert counts[0] / counts[1] - 1 == pytest.approx(match.residual), "dense has widths of the same grain"


def test_known_solutions() -> None:
    """The solutions so far: a change here changes the name and results of every run."""
    solved = {
        (size, name): matched(name, size).solved for size in ("nano", "tiny") for name in ("mamba", "moe", "hybrid")
    }
    assert solved == {
        ("nano", "mamba"): {"n_blocks": 7, "d_state": 48},
        ("nano", "moe"): {"expert_d_ff": 172},
        ("nano", "hybrid"): {"d_ff": 280},
        ("tiny", "mamba"): {"n_blocks": 23},
        ("tiny", "moe"): {"expert_d_ff": 1024},
        ("tiny", "hybrid"): {"d_ff": 1768},
    }
    assert matched("dense").solved == {} and matched("dense").residual == 0


@pytest.mark.parametrize(
    ("size", "total"), [("tiny", 137_353_728), ("medium", 372_041_728), ("large", 1_092_662_400), ("xlarge", 0)]
)
def test_parameters_of_the_configured_sizes(size: str, total: int) -> None:
    """137M, 372M, 1.09B and 1.51B: GPT-2's parts with biases, an untied head and 4096 positions."""
    found = model_cost(matched("dense", size, "classic").spec, 1024).total_params
    assert found == (total or 1_510_136_320)
    width, layers = size_of(size).d_model, size_of(size).n_layers
    layer = 4 * (width * width + width) + (8 * width * width + 5 * width) + 2 * 2 * width
    assert found == 2 * VOCAB_SIZE * width + 4096 * width + layers * layer + 2 * width


def test_swiglu_and_gelu_have_equal_parameters() -> None:
    for size in SIZES:
        gelu, swiglu = (dense_d_ff(size_of(size), recipe_of(name)) for name in ("classic", "modern"))
        assert gelu == (size_of(size).d_ff or 4 * size_of(size).d_model)
        assert swiglu % 8 == 0 and 0 <= 3 * swiglu - 2 * gelu <= 3 * 8
    assert dense_d_ff(replace(size_of("nano"), d_ff=300), recipe_of("modern")) == 200
    assert dense_d_ff(replace(size_of("nano"), d_ff=300), recipe_of("classic")) == 300


def test_settings_of_the_user_are_not_changed() -> None:
    mamba = matched(architecture_of("mamba", d_state=128), "large")
    assert mamba.spec.d_state == 128 and set(mamba.solved) == {"n_blocks"}
    mamba = matched(architecture_of("mamba", n_blocks=7))
    assert len(mamba.spec.blocks) == 7 and set(mamba.solved) == {"d_state"}
    hybrid = matched(architecture_of("hybrid", d_state=128, window=32, n_blocks=8))
    assert (hybrid.spec.d_state, hybrid.spec.window, len(hybrid.spec.blocks)) == (128, 32, 8)
    moe = matched(architecture_of("moe", n_experts=16, top_k=4), "micro")
    assert (moe.spec.n_experts, moe.spec.top_k) == (16, 4)
    assert moe.spec.expert_d_ff < matched("moe", "micro").spec.expert_d_ff


def test_without_matching_the_configuration_is_used() -> None:
    for name in ARCHITECTURES:
        match = matched(name, "micro", match="none")
        assert match.solved == {}
        assert len(match.spec.blocks) == 16
        assert match.spec.d_ff == match.spec.expert_d_ff == dense_d_ff(size_of("micro"), recipe_of("modern"))
        assert match.spec.d_state == (16 if name == "mamba1" else 64)
        assert match.spec.window == size_of("micro").seq_len // 4
    assert matched("mamba", match="none").residual > 0.02


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (lambda: architecture_of("dense", d_ff=100), "list a setting in architecture.free_parameters"),
        (lambda: architecture_of("hybrid", d_ff=64), "leave architecture.d_ff to matching"),
        (lambda: architecture_of("mamba", n_blocks=2), "leave architecture.n_blocks to matching"),
        (lambda: architecture_of("moe", expert_d_ff=8), "leave architecture.expert_d_ff to matching"),
        (lambda: architecture_of("moe", top_k=8, n_experts=20000), "match=none"),
        (lambda: architecture_of("dense", pattern=["attention", "mpl"]), "unknown block 'mpl'"),
        (lambda: architecture_of("hybrid", n_blocks=2), "architecture.n_blocks=2: too few for the pattern"),
        (lambda: architecture_of("jamba"), "attention would be cut away; give at least 16"),
    ],
)
def test_impossible_match_is_reported_in_one_line(architecture: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        matched(architecture())
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_pattern_is_repeated_and_cut() -> None:
    assert repeat_pattern(["mamba"], 3) == ("mamba",) * 3
    assert repeat_pattern(["attention", "mlp"], 4) == ("attention", "mlp", "attention", "mlp")
    pattern = ["mamba", "mlp", "sliding_attention", "mlp"]
    assert repeat_pattern(pattern, 6) == (*pattern, "mamba", "mlp")
    assert repeat_pattern(pattern, 3) == tuple(pattern[:3]), "the second mlp is not another kind"
    with pytest.raises(UserError, match="sliding_attention would be cut away; give at least 4"):
        repeat_pattern(pattern, 2)


@pytest.mark.parametrize("architecture", ["dense", "mamba", "moe", "hybrid"])
def test_tokens_give_the_flops_of_dense(architecture: str) -> None:
    config = composed(architecture, "modern", "size=micro")
    dense = composed("dense", "modern", "size=micro")
    flops = [
        model_cost(match_config(each).spec, config.training.seq_len).train_flops_per_token for each in (config, dense)
    ]
    tokens = tokens_at_equal_flops(config, 10**9)
    assert tokens * flops[0] == pytest.approx(10**9 * flops[1], rel=1e-6)
    assert (tokens == 10**9) == (architecture == "dense")


@pytest.mark.parametrize(("n_blocks", "d_inner"), [(9, 768), (11, 512)])
def test_matching_keeps_whole_groups_of_heads(n_blocks: int, d_inner: int) -> None:
    found = matched(architecture_of("mamba", n_groups=4, n_blocks=n_blocks), size="micro").spec
    assert found.d_inner == d_inner and found.n_ssm_heads % 4 == 0
    plain = matched(architecture_of("mamba", n_blocks=9), size="micro").spec
    assert plain.n_ssm_heads % 4, "without groups, any whole head will do"


@pytest.mark.parametrize("name", ["dense", "moe", "hybrid"])
def test_grouped_heads_hold_for_the_reference_too(name: str) -> None:
    """The same setting of the size gives dense fewer parameters, and the others are matched to those."""
    plain = match_config(composed(name, "modern", "size=micro"))
    grouped = match_config(composed(name, "modern", "size=micro", "size.n_kv_heads=1"))
    counts = [model_cost(match.spec, 512).active_non_embedding_params for match in (plain, grouped)]
    assert grouped.spec.n_kv_heads == 1 < plain.spec.n_kv_heads
    assert abs(grouped.residual) <= TOLERANCE and counts[1] < 0.9 * counts[0]
